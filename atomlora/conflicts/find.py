"""Looks for contradictions among the atoms of one version: each atom is compared with its nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from atomlora.atom import Atom
from atomlora.conflicts.compare import Contradiction, Statement, contradiction
from atomlora.conflicts.newest import latest, newest
from atomlora.conflicts.records import ConflictRecord, Side
from atomlora.conflicts.seen import seen_by_both, viewers
from atomlora.metrics import contains
from atomlora.router.index import KeyIndex, index_kind

NEIGHBOURS = 8
LEAST_COSINE = 0.5  # of the embeddings of two atoms' texts; a changed policy in other words has .84

FirstSeen = Callable[[frozenset[str]], dict[str, int]]


class _Found(NamedTuple):
    """Two atoms at the places by which they are judged, how they contradict each other, and whether these are all."""

    a: Atom
    b: Atom
    how: Contradiction
    whole: bool


def find_conflicts(atoms: Sequence[Atom], texts: np.ndarray, first_seen: FirstSeen) -> list[ConflictRecord]:
    """The conflicts among `atoms`, in their order. `texts` float32 (n, d): unit embeddings of the atoms' texts.
    `first_seen` tells of some atoms the number of the version in which each first appeared, asked only of those that
    dates do not settle."""
    found = [one for i, j in _neighbours(texts) if (one := _compared(atoms[i], atoms[j])) is not None]
    # The version tells of all places of an atom at once, so not where some are hidden.
    unsettled = [one for one in found if one.whole and newest(one.a, one.b, {}) is None]
    seen = first_seen(frozenset(atom.id for one in unsettled for atom in (one.a, one.b))) if unsettled else {}
    return [_record(one.a, one.b, one.how, seen if one.whole else {}) for one in found]


def _compared(a: Atom, b: Atom) -> _Found | None:
    """How two atoms contradict each other, if anybody's question can be routed to both: what two tenants say of the
    same thing is no conflict."""
    if not viewers(a, b):
        return None
    seen = seen_by_both(a, b)
    how = contradiction(*(_statement(atom) for atom in seen))
    return None if how is None else _Found(*seen, how, whole=seen[0] is a and seen[1] is b)


def _statement(atom: Atom) -> Statement:
    return Statement(atom.text, atom.title, atom.headings, tuple(place.source for place in atom.provenances))


def _neighbours(texts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs (i < j) of which one is among the other's nearest, each once."""
    if len(texts) < 2:
        return
    near = KeyIndex(texts, index_kind(len(texts))).search(texts, NEIGHBOURS + 1)
    rows = np.repeat(np.arange(len(texts)), near.shape[1])
    columns = near.ravel()
    valid = (columns >= 0) & (columns != rows)
    pairs = np.unique(np.sort(np.stack([rows[valid], columns[valid]], axis=1), axis=1), axis=0)
    close = np.einsum("ij,ij->i", texts[pairs[:, 0]], texts[pairs[:, 1]]) >= LEAST_COSINE
    yield from ((int(i), int(j)) for i, j in pairs[close])


def _record(a: Atom, b: Atom, found: Contradiction, seen: dict[str, int]) -> ConflictRecord:
    one, two = _side(a, found.a, found.value_a), _side(b, found.b, found.value_b)
    verdict = newest(a, b, seen)
    if verdict is not None and not verdict.second:
        one, two = two, one
    return ConflictRecord(
        older=one,
        newer=two,
        kind=found.kind,
        decided_by=verdict.decided_by if verdict else None,
        question=_question(a, found.value_a) or _question(b, found.value_b),
    )


def _side(atom: Atom, sentence: str, value: str) -> Side:
    places = sorted(atom.provenances, key=lambda place: place.date or "")
    dated = latest(atom)
    return Side(
        atom=atom.id,
        source=places[-1].source if places else None,
        sentence=sentence,
        value=value,
        date=dated[0] if dated else None,
    )


def _question(atom: Atom, value: str) -> str | None:
    """A question of the atom whose answer is the value in question."""
    asked = (q.text for q in atom.questions if q.kind in ("user", "written") and contains(q.answer, [value]))
    return next(asked, None)
