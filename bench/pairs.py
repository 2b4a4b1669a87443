"""Can records tell which atoms will harm each other, and what does one wrong atom do to other people's questions?

    python bench/pairs.py --store STORE --golden FILE [--off-topic FILE] [--atoms 40] [--json]

Harm: each of `--atoms` atoms is asked beside others, one at a time at weights 1, .5 and .3: the neighbours that the
store's records name, and as many random atoms. It is asked in the training wordings that the records were not measured
on, and in people's (golden questions that it alone answers). Damage is the share of statements, recalled alone, that
are lost (every token greedy under teacher forcing). AUROC: how well a figure ranks the pairs that lose more than 10
points above those that do not, with an interval bootstrapped over atoms.

Off topic: on the questions of a jsonl file (key `question`), the base's own greedy answers with one random atom
mounted: KL(base || composed) per token in nats, and the share of answers that stay the same, of those that do not loop.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from beside import beside, told

from atomlora.atom import Atom
from atomlora.bases import load_base
from atomlora.errors import AtomLoraError, InputError
from atomlora.golden import GoldenQuestion, load_golden, read_questions
from atomlora.interference.asked import golden_questions
from atomlora.interference.lab import Lab, Stack, wordings
from atomlora.interference.off_topic import base_examples, changed, mean_kl, repeats, wrong_atoms
from atomlora.interference.predict import Predictor
from atomlora.interference.records import InterferenceRecords
from atomlora.metrics import mean
from atomlora.spread import evenly
from atomlora.store import Store
from atomlora.training.trunk import Example

roc_area = beside("router_rivals").roc_area

WEIGHTS = (1.0, 0.5, 0.3)
OFF_TOPIC_WEIGHTS = (1.0, 0.3, 0.1, 0.05)
HARMFUL = 0.10  # of the statements
FIGURES = ("peak", "delta_nll", "kl", "flips", "overlap")


class Asked(NamedTuple):
    """A question, the place of its atom, and what the atom is to say."""

    atom: int
    question: str
    statement: str


class Beside(NamedTuple):
    """An atom and another at that weight: the share of its statements lost, and whether a record has the pair."""

    atom: int
    other: int
    weight: float
    damage: float
    recorded: bool


def questions_of(atoms: Sequence[Atom], chosen: Sequence[int], golden: Sequence[GoldenQuestion], probes: int) -> Any:
    """What the chosen atoms are asked, the records' own wordings left out."""
    known = set(chosen)
    trained = [Asked(n, *asked) for n in chosen for asked in wordings(atoms[n])[probes:]]
    people = [
        Asked(n, text, atoms[n].text) for text, n, _ in golden_questions(golden, atoms, len(golden)) if n in known
    ]
    return [*trained, *people]


def measured(lab: Lab, asked: Sequence[Asked], others: dict[int, list[int]], recorded: set[tuple[int, int]]) -> Any:
    """(Share of questions recalled alone, one `Beside` for each atom, other and weight)."""
    rows = lab.rows([Example.asked(lab.base.tokenizer, one.question, one.statement) for one in asked])
    alone = lab.outcome(rows, range(len(asked)), [Stack.at_one(one.atom) for one in asked]).passed.tolist()
    found: dict[tuple[int, int, float], list[float]] = defaultdict(list)
    for weight in WEIGHTS:
        tell(f"beside others at weight {weight}")
        keys = [(row, one.atom, other) for row, one in enumerate(asked) if alone[row] for other in others[one.atom]]
        stacks = [Stack((atom, other), (1.0, weight)) for _, atom, other in keys]
        passed = lab.outcome(rows, [row for row, _, _ in keys], stacks).passed.tolist()
        for (_, atom, other), right in zip(keys, passed, strict=True):
            found[atom, other, weight].append(float(not right))
    pairs = [Beside(*key, mean(lost), key[:2] in recorded) for key, lost in found.items()]
    return mean([float(x) for x in alone]), pairs


def auroc_rows(pairs: Sequence[Beside], scores: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row for each weight (and all), kind of pair and figure."""
    for weight in (*WEIGHTS, None):
        mine = [one for one in pairs if weight in (None, one.weight)]
        for kind, some in {
            "recorded": [one for one in mine if one.recorded],
            "not recorded": [one for one in mine if not one.recorded],
        }.items():
            harmful = mean([float(one.damage > HARMFUL) for one in some])
            for name, score in scores.items():
                if kind == "recorded" or name == "predictor":
                    area, low, high = area_with_interval(some, score)
                    key = {"weight": weight, "pairs": kind, "n": len(some), "harmful": round(harmful, 3)}
                    yield key | {"figure": name, "auroc": area, "interval": [low, high]}


def area_with_interval(pairs: Sequence[Beside], score: Any, draws: int = 500) -> tuple[float, float, float]:
    """AUROC of a score, and its 95 % interval over atoms drawn with repeats."""
    by_atom: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for one in pairs:
        by_atom[one.atom].append((score(one), one.damage > HARMFUL))
    atoms, random = list(by_atom), np.random.default_rng(0)
    drawn = [atoms, *(random.choice(atoms, len(atoms)).tolist() for _ in range(draws))]
    areas = [_area([item for atom in some for item in by_atom[atom]]) for some in drawn]
    low, high = np.nanquantile(areas[1:], (0.025, 0.975))
    return round(areas[0], 3), round(float(low), 3), round(float(high), 3)


def _area(items: Sequence[tuple[float, bool]]) -> float:
    harmful = [value for value, is_harmful in items if is_harmful]
    harmless = [value for value, is_harmful in items if not is_harmful]
    return float(roc_area(harmful, harmless)) if harmful and harmless else float("nan")


def scores_of(records: InterferenceRecords, atoms: Sequence[Atom]) -> dict[str, Any]:
    """Figure -> score of a pair: the predicted damage, or one figure of its record."""
    predictor = Predictor.of(records)

    def predicted(one: Beside) -> float:
        ids = [atoms[one.atom].id, atoms[one.other].id]
        return predictor.stack(ids, [1.0, one.weight])[0].strain

    def figure(name: str) -> Any:
        return lambda one: getattr(records.pairs[atoms[one.atom].id, atoms[one.other].id], name)

    return {"predictor": predicted} | {name: figure(name) for name in FIGURES}


def prediction_ms(records: InterferenceRecords, atoms: Sequence[Atom], k: int = 8, repeats_: int = 200) -> float:
    """Median milliseconds of one prediction for k atoms."""
    predictor, taken = Predictor.of(records), []
    ids = [atom.id for atom in atoms[:k]]
    for _ in range(repeats_):
        start = time.perf_counter()
        predictor.stack(ids, [1.0] * len(ids))
        taken.append(time.perf_counter() - start)
    return round(float(np.median(taken)) * 1e3, 3)


def off_topic_rows(lab: Lab, atoms: int, questions: Sequence[str], tokens: int) -> Iterator[dict[str, Any]]:
    """One row for each weight of the wrong atom."""
    examples = base_examples(lab.base, questions, tokens)
    straight = [not repeats(example.answer) for example in examples]
    wrong = wrong_atoms(atoms, len(questions), 1)
    for weight in OFF_TOPIC_WEIGHTS:
        found = changed(lab, examples, range(len(questions)), [Stack((atom,), (weight,)) for atom in wrong])
        same = [float(one.same) for one, is_straight in zip(found, straight, strict=True) if is_straight]
        yield {"weight": weight, "n": len(found), "kl": round(mean_kl(found), 4), "unchanged": round(mean(same), 3)}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both tables."""
    torch.set_num_threads(arguments.threads)
    began, load = time.process_time(), os.getloadavg()
    with Store.open(arguments.store) as store:
        atoms, records = list(store.atoms()), store.interference()
        if records is None:
            raise InputError(f"{arguments.store}: no interference records; `atomlora check --measure` makes them")
        lab = Lab(load_base(store.manifest.base.name), store.manifest.targets)
        lab.mount(atoms, lambda atom: store.weights(atom.id))
    number = {atom.id: n for n, atom in enumerate(atoms)}
    recorded = {(number[a], number[b]) for a, b in records.pairs if a in number and b in number}
    chosen = evenly(range(len(atoms)), arguments.atoms)
    random = np.random.default_rng(0)
    others = {}
    for one in chosen:
        near = sorted(b for a, b in recorded if a == one)
        strangers = [n for n in random.permutation(len(atoms)).tolist() if n != one and n not in near]
        others[one] = [*near, *strangers[: len(near)]]
    asked = questions_of(atoms, chosen, load_golden(arguments.golden), records.probes)
    alone, pairs = measured(lab, asked, others, recorded)
    result: dict[str, Any] = {
        "settings": {"atoms": len(chosen), "questions": len(asked), "threads": arguments.threads},
        "alone": round(alone, 3),
        "pairs": list(auroc_rows(pairs, scores_of(records, atoms))),
        "prediction_ms_of_8": prediction_ms(records, atoms),
    }
    if arguments.off_topic is not None:
        questions = list(read_questions(arguments.off_topic))
        result["off_topic"] = list(off_topic_rows(lab, len(atoms), questions, arguments.tokens))
    return result | {"load": [load, os.getloadavg()], "cpu_seconds": round(time.process_time() - began, 1)}


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def show(result: dict[str, Any]) -> None:
    """The figures as tables."""
    print(f"alone {result['alone']:.3f}; a prediction for 8 atoms {result['prediction_ms_of_8']} ms")
    for row in result["pairs"]:
        low, high = row["interval"]
        weight = "all" if row["weight"] is None else row["weight"]
        print(
            f"{weight!s:>4} {row['pairs']:13} n={row['n']:4} harmful {row['harmful']:.2f}  {row['figure']:10} "
            f"{row['auroc']:.3f} ({low:.2f}-{high:.2f})"
        )
    for row in result.get("off_topic", []):
        print("off topic, weight {weight}: KL {kl}, unchanged {unchanged} of {n}".format(**row))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--golden", type=Path, required=True, help="jsonl of questions, as `atomlora eval` takes them")
    parser.add_argument("--off-topic", type=Path, help="jsonl of questions that are none of the store's business")
    parser.add_argument("--atoms", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=48, help="most tokens of the base's answer off topic")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.atoms < 1:
        parser.error(f"--atoms must be at least 1, not {arguments.atoms}")
    try:
        result = run(arguments)
    except AtomLoraError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
    told(result, arguments.json, show)


if __name__ == "__main__":
    main()
