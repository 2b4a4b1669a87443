"""Turns: every atom that a question was routed to leads the answer once.

Atoms that know different facts say one of them when they are stacked, and which one is decided by a hair. So an
answer is made of statements: in each turn one atom leads, at weight 1, and the others stand beside it at their
gates. The turns of a question are rows of one batch, and a question with one clear atom has one turn. On the sample
corpus this lifts the share of answers that hold the golden one from 73 to 85 % (bench/RESULTS.md): where the router
hesitates between two atoms, both are heard.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atomlora.metrics import normalise

if TYPE_CHECKING:
    from atomlora.composer import Selection

_UNIT = re.compile("[$€£¥%‰°]")  # signs that scoring passes over


def turns(selection: Selection) -> list[Selection]:
    """What is mounted for each statement of the answer, the likeliest leader first; a selection without atoms has
    one turn, that of the base with its behaviours. Behaviours stand beside every statement and lead none."""
    return [_led_by(selection, number) for number in range(len(selection.atoms))] or [selection.bare()]


def alone(selection: Selection, leader: int) -> Selection:
    """The atom that leads turn number `leader`, at weight 1 without the other atoms; behaviours stay beside it."""
    first = selection.atoms[leader].model_copy(update={"weight": 1.0})
    return selection.model_copy(update={"atoms": (first, *selection.beside), "beside": ()})


def joined(statements: Sequence[str]) -> str:
    """The statements, one a line, without those that an earlier one holds."""
    kept: list[str] = []
    for statement in statements:
        if adds(statement, kept):
            kept.append(statement)
    return "\n".join(kept)


def adds(statement: str, before: Sequence[str]) -> bool:
    """Whether `statement` says something (by its normalised words, and what its amounts are of) that none of those
    `before` it says; the first one counts as it is, if only for its punctuation."""
    if not before:
        return bool(statement)
    words, units = f" {' '.join(normalise(statement))} ", Counter(_UNIT.findall(statement))
    return bool(words.strip()) and not any(
        words in f" {' '.join(normalise(one))} " and units <= Counter(_UNIT.findall(one)) for one in before
    )


def _led_by(selection: Selection, leader: int) -> Selection:
    atoms = selection.atoms
    first = atoms[leader].model_copy(update={"weight": 1.0})
    others = (*atoms[:leader], *atoms[leader + 1 :], *selection.beside)
    return selection.model_copy(update={"atoms": (first, *others), "beside": ()})
