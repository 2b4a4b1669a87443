"""Questions that take more than one step: what is still to be asked once a first atom is known.

"Who is the brother of the captain of the Marla?" is near the atom "The captain of the Marla is Osk Berrin", and far
from what is said of Osk Berrin's brother. The atom accounts for the words captain and Marla; what is left of the
question, with each name that the atom brings in, is asked next: "Who is the brother of the of the Osk Berrin". An atom
that is found by way of another counts as much as both do: its gate is the product of their gates.

After the iterative retrieval of multi-hop question answering (Qi et al., arXiv 1910.07000), with overlap of words for
its learnt question generator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from atomlora.router.lexical import STOP_WORDS, words
from atomlora.router.scores import Candidates

# Of the atoms of a round that are followed, and of the names in one that are asked about
FOLLOWED = 2
NAMES = 4
_WORD = re.compile(r"[\w'’-]+")
_CAPITALS = "A-ZÀ-ÖØ-ÞĀĂĄĆĈĊČĎĐĒĔĖĘĚĜĞĠĢĤĦĨĪĬĮİĴĶĹĻĽĿŁŃŅŇŌŎŐŒŔŖŘŚŜŞŠŢŤŦŨŪŬŮŰŲŴŶŸŹŻŽ"
_PART = rf"(?:[{_CAPITALS}][\w'’-]*|\d[\w.:-]*\w|\d)"
_NAME = re.compile(rf"(?<!\w){_PART}(?: {_PART})*")


class Found(NamedTuple):
    """An atom on the way to an answer: its number, its gate (the product along its way), its fused score, and the
    question that found it."""

    atom: int
    weight: float
    score: float
    question: str


def follow_ups(question: str, text: str) -> list[str]:
    """What is left of a question once `text` is known, asked of each name that the text adds; nothing where the text
    has no word of the question, or all of them, or no new name."""
    known, asked = set(words(text)), set(words(question))
    rest = [word for word in _WORD.findall(question) if not set(words(word)) or not set(words(word)) <= known]
    if not asked & known or not any(words(word) for word in rest):
        return []
    names: dict[str, None] = {}
    for name in _NAME.findall(text):
        parts = name.split()
        while parts and parts[0].lower() in STOP_WORDS:
            parts = parts[1:]
        if parts and not set(words(" ".join(parts))) <= asked:
            names[" ".join(parts)] = None
    return [" ".join([*rest, name]) for name in list(names)[:NAMES]]


def follow(
    first: Sequence[Found],
    hops: int,
    text_of: Callable[[int], str],
    ask: Callable[[list[str]], list[Candidates]],
    gates: Callable[[Candidates], np.ndarray],
    least: float,
) -> list[Found]:
    """The atoms of a first round and those that further ones find by way of them, the likeliest first.

    `hops` rounds in all; `text_of` an atom, `ask` for the candidates of questions, `gates` of candidates. Ways of a
    gate below `least` are not gone.
    """
    best = {found.atom: found for found in first}
    front = list(first)
    for _ in range(hops - 1):
        steps = [
            (found, question)
            for found in front[:FOLLOWED]
            for question in follow_ups(found.question, text_of(found.atom))
        ]
        if not steps:
            break
        fresh: dict[int, Found] = {}
        for (before, question), candidates in zip(steps, ask([question for _, question in steps]), strict=True):
            for atom, gate, score in zip(candidates.atoms, gates(candidates), candidates.fused, strict=True):
                weight = before.weight * float(gate)
                known = fresh.get(int(atom)) or best.get(int(atom))
                if weight >= least and (known is None or weight > known.weight):
                    fresh[int(atom)] = Found(int(atom), weight, float(score), question)
        best |= fresh
        front = sorted(fresh.values(), key=lambda found: (-found.weight, found.atom))
    return sorted(best.values(), key=lambda found: (-found.weight, -found.score, found.atom))
