"""Score a question writer on titles it was not trained on: `python -m atomlora.questions.score_writer
--help`.

Prints one JSON object: ROUGE-L and token F1 of the greedy question for each human answer against the human
question (the best of them where several share the answer), the share of human answers that the writer's
candidates hit, the share of atoms whose questions were written (not cloze), seconds per atom, and a sample
of questions to look at.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from atomlora.questions.adapter import AdapterWriter
from atomlora.questions.filters import normalised
from atomlora.questions.prompts import prefix_prompt, question_suffix, token_ids
from atomlora.questions.squad import Group, make_groups, read_passages, split_titles
from atomlora.questions.types import AtomText


def token_f1(one: str, other: str) -> float:
    """F1 over bags of normalised words (the measure of SQuAD)."""
    left, right = normalised(one).split(), normalised(other).split()
    common = sum((Counter(left) & Counter(right)).values())
    return 2 * common / (len(left) + len(right)) if common else 0.0


def rouge_l(one: str, other: str) -> float:
    """F1 of the longest common subsequence of normalised words (ROUGE-L, Lin 2004)."""
    left, right = normalised(one).split(), normalised(other).split()
    row = [0] * (len(right) + 1)
    for word in left:
        before = row
        row = [0]
        for at, seen in enumerate(right, start=1):
            row.append(before[at - 1] + 1 if word == seen else max(before[at], row[-1]))
    return 2 * row[-1] / (len(left) + len(right)) if row[-1] else 0.0


def score(writer: AdapterWriter, groups: Sequence[Group], max_questions: int) -> dict[str, object]:
    """All figures for `groups` (single sentences)."""
    atoms = [AtomText(title=g.path, text=g.text) for g in groups]
    started = time.monotonic()
    written = writer.write(atoms, max_questions)
    seconds = (time.monotonic() - started) / len(atoms)
    hits = total = 0
    f1, rouge = [], []
    for start in range(0, len(groups), 16):
        part = groups[start : start + 16]
        prompts = [token_ids(writer.tokenizer, prefix_prompt(g.path, g.text)) for g in part]
        rows = [(index, answer) for index, g in enumerate(part) for answer in dict.fromkeys(a for _, a in g.pairs)]
        prefixes = writer.prefill(prompts)
        lines = writer.generate(prefixes, [i for i, _ in rows], [question_suffix(a) for _, a in rows], 32)
        for (index, answer), (line, _) in zip(rows, lines, strict=True):
            human = [question for question, other in part[index].pairs if other == answer]
            f1.append(max(token_f1(line, question) for question in human))
            rouge.append(max(rouge_l(line, question) for question in human))
    for group, questions in zip(groups, written, strict=True):
        answers = [q.answer for q in questions]
        for answer in dict.fromkeys(a for _, a in group.pairs):
            total += 1
            hits += any(token_f1(answer, candidate) >= 0.5 for candidate in answers)
    sample = [
        {"text": atom.text, "question": q.text, "answer": q.answer, "kind": q.kind}
        for atom, questions in zip(atoms, written, strict=True)
        for q in random.Random(atom.text).sample(questions, min(1, len(questions)))
    ]
    return {
        "atoms": len(atoms),
        "human_answers": total,
        "question_f1": round(sum(f1) / len(f1), 3),
        "question_rouge_l": round(sum(rouge) / len(rouge), 3),
        "answer_recall": round(hits / total, 3),
        "questions_per_atom": round(sum(map(len, written)) / len(atoms), 2),
        "written_share": round(sum(q.kind == "written" for qs in written for q in qs) / sum(map(len, written)), 3),
        "seconds_per_atom": round(seconds, 2),
        "sample": sample,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(prog="python -m atomlora.questions.score_writer", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="SQuAD passages, jsonl")
    parser.add_argument("--base", required=True, help="folder of the base model")
    parser.add_argument("--adapter", type=Path, required=True, help="folder written by train_writer")
    parser.add_argument("--train-titles", type=int, default=16, help="titles (file order) that training used")
    parser.add_argument("--atoms", type=int, default=64, help="sentences to score, drawn from the other titles")
    parser.add_argument("--max-questions", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1, help="rounds of questions")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    groups = make_groups(split_titles(read_passages(args.data), args.train_titles)[1], None)
    groups = random.Random(0).sample(groups, min(args.atoms, len(groups)))
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
    writer = AdapterWriter(model, AutoTokenizer.from_pretrained(args.base), args.adapter, rounds=args.rounds)
    print(json.dumps(score(writer, groups, args.max_questions), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
