"""Score a reader on SQuAD titles that it was not trained on: `python -m atomlora.reader.score --data SQUAD.jsonl`.

Three ways of reading, with the reader and with the bare base (by its chat template, as mode text without a reader):
the sentence that holds the answer, that sentence among others or garbled as in training, and the whole passage.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

from atomlora import metrics
from atomlora.bases import EMBEDDED_BASE, load_base
from atomlora.errors import UsageError
from atomlora.full_context import ask_documents
from atomlora.questions.squad import Passage, pairs_within, read_passages, sentence_spans, split_titles
from atomlora.reader.examples import ReaderExample
from atomlora.reader.mounted import ANSWER_TOKENS, grounded
from atomlora.reader.registry import reader_for
from atomlora.reader.squad import Sentences, statements, whole_passages


def held_out_examples(passages: Sequence[Passage], count: int) -> dict[str, list[ReaderExample]]:
    """`count` questions or fewer of each way of reading, the same draw in every run."""
    generator = random.Random(0)
    alone = [
        ReaderExample(text=passage.text[start:end], question=question, answer=answer)
        for passage in passages
        for start, end in sentence_spans(passage.text)
        for question, answer in pairs_within(passage, passage.text[start:end])
    ]
    met = [
        ReaderExample(text="\n".join(one["statements"]), question=one["question"], answer=one["answer"])
        for one in statements(passages, Sentences(passages), generator)
    ]
    whole = [ReaderExample.model_validate(one) for one in whole_passages(passages)]
    found = {"sentence": alone, "statements": met, "passage": whole}
    return {name: generator.sample(drawn, min(count, len(drawn))) for name, drawn in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m atomlora.reader.score", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="SQuAD passages, jsonl")
    parser.add_argument("--base", default=EMBEDDED_BASE)
    parser.add_argument("--reader", default="auto", help="auto, or a folder written by `atomlora adapt`")
    parser.add_argument("--train-titles", type=int, default=16, help="titles (file order) to leave out")
    parser.add_argument("--questions", type=int, default=120, help="of each way of reading")
    args = parser.parse_args(arguments)
    base = load_base(args.base)
    reader = reader_for(args.reader, base)
    if reader is None:
        raise UsageError(f"--reader {args.reader}: there is none for base {args.base}")
    _, passages = split_titles(read_passages(args.data), args.train_titles)
    for name, examples in held_out_examples(passages, args.questions).items():
        questions, texts = [one.question for one in examples], [one.text for one in examples]
        replies = {
            reader.name: reader.read(questions, texts),
            "base": ask_documents(base, questions, texts, ANSWER_TOKENS),
        }
        for who, said in replies.items():
            pairs = list(zip(said, examples, strict=True))
            scores = {
                measure.__name__: round(
                    metrics.mean([measure(reply.text, [one.answer or ""]) for reply, one in pairs]), 3
                )
                for measure in (metrics.f1, metrics.exact_match, metrics.contains)
            }
            stand = metrics.mean([float(grounded(reply.text, one.text)) for reply, one in pairs])
            print(json.dumps({"reads": name, "who": who, "n": len(pairs), **scores, "grounded": round(stand, 3)}))


if __name__ == "__main__":
    main()
