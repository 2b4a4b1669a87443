"""Whether a reader says so where the texts that were routed do not answer, and what that costs where they do.

    python bench/refusing.py --data DIR [--reader auto|none|DIR] [--base NAME] [--questions N] [--json] [--rows FILE]

SQuAD's titles from the 17th on, which neither reader nor question writer was trained on, by sentence. Of twice N
questions, evenly spread, every second one is read from what the router gives it: the atoms of its own selection, if one
holds the answer. The others are read from as many atoms, the likeliest that do not hold all words of their answers; of
these some answer in other words all the same. AUROC: of the reader's probability that there is no answer. F1 of answers
is over words, where a refusal is nothing said.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from beside import beside, told

from atomlora import metrics
from atomlora.bases import EMBEDDED_BASE, cache_folder, load_base
from atomlora.defaults import TOP_K
from atomlora.errors import AtomLoraError, UsageError
from atomlora.golden import read_jsonl
from atomlora.reader.refusals import may_answer
from atomlora.reader.registry import reader_for
from atomlora.router import RouterSettings, load_embedder

sets, rivals = beside("router_sets"), beside("router_rivals")
routed = beside("router").Routed


def asked_texts(data: Path, work: Path, count: int) -> list[dict[str, Any]]:
    """{question, answer, text, answerable} of `count` questions that their texts answer and `count` that they do not,
    fewer where the router finds no right atom."""
    inputs = sets.Inputs(data, None, work, load_embedder(), 2 * count, 0)
    found = sets.squad_texts_set(inputs)
    answers = {
        one["question"]: one["answer"]
        for _, line in read_jsonl(data / "squad" / "dev_titles.jsonl")
        for one in line["questions"]
    }
    router, least = routed(found, inputs, RouterSettings()), RouterSettings().min_weight
    rows = []
    for number, one in enumerate(found.asked):
        answer, ranked = answers[one.question], router.rank(one.question)
        some = [at for at, weight in zip(ranked.numbers, ranked.weights, strict=True) if weight >= least]
        some = some[:TOP_K] or ranked.numbers[:1]
        if answerable := number % 2 == 0:
            if not one.atoms & set(some):
                continue
        else:
            without = [at for at in ranked.numbers if not may_answer(found.atoms[at].text, answer)]
            some = without[: len(some)]
        text = "\n".join(dict.fromkeys(found.atoms[at].text for at in some))
        rows.append({"question": one.question, "answer": answer, "text": text, "answerable": answerable})
    return rows


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a reader's replies, put into the rows, come to."""
    inside = [row for row in rows if row["answerable"]]
    result: dict[str, Any] = {
        "answerable": len(inside),
        "unanswerable": len(rows) - len(inside),
        "f1": metrics.mean([metrics.f1(row["said"], [row["answer"]]) for row in inside]),
        "contains": metrics.mean([metrics.contains(row["said"], [row["answer"]]) for row in inside]),
    }
    if any(row["chance"] is None for row in rows):
        return result
    refused = [np.array([row["refused"] for row in rows if row["answerable"] is kind]) for kind in (True, False)]
    # As the router's confidence: high where it is answered.
    sure = [np.array([1 - row["chance"] for row in rows if row["answerable"] is kind]) for kind in (True, False)]
    kept = [metrics.f1(row["said"], [row["answer"]]) for row in inside if not row["refused"]]
    return result | {
        "refusing": rivals.refusal(*refused),
        "best_f1": rivals.best_refusal(*sure),
        "auroc": rivals.roc_area(*sure),
        "f1_where_answered": metrics.mean(kept),
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read every row."""
    base = load_base(arguments.base)
    reader = reader_for(arguments.reader, base)
    if reader is None:
        raise UsageError(f"--reader {arguments.reader}: there is none for base {arguments.base}")
    rows = asked_texts(arguments.data, arguments.work, arguments.questions)
    replies = reader.read([row["question"] for row in rows], [row["text"] for row in rows])
    for row, reply in zip(rows, replies, strict=True):
        said = "" if reply.unanswered else reply.text
        row |= {"said": said, "chance": reply.unanswerable, "refused": reply.unanswered}
    if arguments.rows is not None:
        arguments.rows.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"reader": reader.name, **figures(rows)}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds squad/dev_titles.jsonl")
    parser.add_argument("--base", default=EMBEDDED_BASE)
    parser.add_argument("--reader", default="auto", help="auto, or a folder written by `atomlora adapt`")
    parser.add_argument("--questions", type=int, default=60, help="of either kind")
    parser.add_argument("--work", type=Path, default=cache_folder() / "bench-router", help="where vectors are kept")
    parser.add_argument("--rows", type=Path, help="also write what was read and said, jsonl")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    try:
        result = run(arguments)
    except AtomLoraError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
    told(result, arguments.json, lambda found: print(json.dumps(found)))


if __name__ == "__main__":
    main()
