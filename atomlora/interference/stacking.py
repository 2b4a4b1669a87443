"""How well an atom is recalled beside k - 1 others, for k = 1, 2, 4, 8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from atomlora.atom import Record
from atomlora.interference.lab import Lab, Stack
from atomlora.metrics import bootstrap_interval, mean
from atomlora.training.rows import LateRows
from atomlora.training.trunk import Example

KS = (1, 2, 4, 8)
Others = Literal["nearest", "random"]
Gating = Literal["gates", "unit"]


class Asked(NamedTuple):
    """A question, the atom that answers it (its number) with `statement`, and the other atoms that the router finds for
    it with their gates, best first."""

    question: str
    atom: int
    statement: str
    routed: tuple[tuple[int, float], ...]


class StackedRecall(Record):
    """Share of `n` questions whose whole statement is greedy under teacher forcing, the atom at weight 1 and k - 1
    others beside it: `nearest` those that the router finds for the question (at unit weights: the nearest in key
    space), `random` any; at weight 1 (`unit`), or at the gates that the router gives to the question's runners-up
    (`gates`), which is how `ask` mounts them. `interval`: 95 %, bootstrapped; `of_alone`: recall / recall at k = 1."""

    k: int
    others: Others
    weights: Gating
    recall: float
    interval: tuple[float, float]
    of_alone: float
    n: int


def stacks_of(
    asked: Sequence[Asked], near: np.ndarray, atoms: int, k: int, others: Others, weights: Gating, seed: int = 0
) -> list[Stack]:
    """What each question mounts, atoms by their numbers, its own first."""
    random = np.random.default_rng(seed)
    found = []
    for one in asked:
        drawn = random.permutation(atoms).tolist()
        strangers = [number for number in drawn if number != one.atom][: k - 1]
        if weights == "unit":
            beside = near[one.atom].tolist()[: k - 1] if others == "nearest" else strangers
            gates = [1.0] * len(beside)
        else:
            routed = one.routed[: k - 1]
            beside = [number for number, _ in routed] if others == "nearest" else strangers[: len(routed)]
            gates = [gate for _, gate in routed]
        found.append(Stack((one.atom, *beside), (1.0, *gates)))
    return found


def stacked_recall(
    lab: Lab,
    asked: Sequence[Asked],
    stacks: Callable[[int, Others, Gating], list[Stack]],
    ks: Sequence[int] = KS,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[StackedRecall]:
    """Recall of the questions for every k, kind of others and weights; `stacks(k, others, weights)` gives what each
    question mounts, by places in the lab."""
    rows = lab.rows([Example.asked(lab.base.tokenizer, one.question, one.statement) for one in asked])
    alone = _hits(lab, rows, stacks(1, "random", "unit"))
    plan = [(k, others, weights) for weights in get_args(Gating) for others in get_args(Others) for k in ks]
    found = []
    for done, (k, others, weights) in enumerate(plan):
        on_progress(done, len(plan))
        hits = alone if k == 1 else _hits(lab, rows, stacks(k, others, weights))
        low, high = bootstrap_interval(hits)
        found.append(
            StackedRecall(
                k=k,
                others=others,
                weights=weights,
                recall=round(mean(hits), 4),
                interval=(round(low, 4), round(high, 4)),
                of_alone=round(mean(hits) / mean(alone), 4) if any(alone) else 0.0,
                n=len(hits),
            )
        )
    on_progress(len(plan), len(plan))
    return found


def _hits(lab: Lab, rows: LateRows, stacks: Sequence[Stack]) -> list[float]:
    return lab.outcome(rows, range(len(stacks)), stacks).passed.float().tolist()
