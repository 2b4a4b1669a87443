"""Which of two atoms is newer.

By the dates of the documents that state them (of several, the latest): what a document says of itself, else a date in
its title or file name, else its properties, else its file's time of modification, each as it was when it was compiled.
Where the dates are equal as far as both are known, or two files are of one minute (as a fresh checkout makes them), by
the version of the store in which an atom first appeared. Where that does not tell either, neither is newer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from atomlora.atom import Atom
from atomlora.corpora.dates import DateOrigin
from atomlora.store import Store

ORIGINS: dict[DateOrigin, str] = {
    "document": "the date in the document",
    "name": "the date in its title or file name",
    "properties": "the file's recorded properties",
    "file": "the file's time of modification",
}
FIRST_VERSION = "the version of the store in which it first appeared"
_ONE_MINUTE = 60.0


class Newest(NamedTuple):
    """Whether the second of two atoms is newer, and by what that is known."""

    second: bool
    decided_by: str


def newest(a: Atom, b: Atom, first_seen: Mapping[str, int]) -> Newest | None:
    """Which of two atoms is newer; `first_seen` is the number of the version in which an atom first appeared. None
    where nothing tells."""
    one, two = latest(a), latest(b)
    if one is not None and two is not None and (later := _later(one, two)) is not None:
        date, origin = two if later else one
        return Newest(later, f"{ORIGINS[origin]} ({date})")
    seen_a, seen_b = first_seen.get(a.id), first_seen.get(b.id)
    if seen_a is None or seen_b is None or seen_a == seen_b:
        return None
    return Newest(seen_b > seen_a, FIRST_VERSION)


def latest(atom: Atom) -> tuple[str, DateOrigin] | None:
    """The latest date of the documents that state an atom, and how it is known."""
    dates = [(place.date, place.date_origin) for place in atom.provenances if place.date and place.date_origin]
    return max(dates, default=None)


def first_seen(store: Store | None, ids: frozenset[str]) -> dict[str, int]:
    """{atom id: number of the version, oldest is 0, in which it first appeared}; atoms that are only now compiled have
    the number of versions. `store` is the newest version there is."""
    history = [] if store is None else store.log()[::-1]
    found: dict[str, int] = {}
    for number, manifest in enumerate(history):
        assert store is not None
        with Store.open(store.path, manifest.version) as version:
            for atom_id in _present(version, ids - found.keys()):
                found[atom_id] = number
    return {atom_id: found.get(atom_id, len(history)) for atom_id in ids}


def _present(version: Store, ids: frozenset[str] | set[str]) -> Iterator[str]:
    return (atom.id for atom in version.atoms() if atom.id in ids) if ids else iter(())


def _later(one: tuple[str, DateOrigin], two: tuple[str, DateOrigin]) -> bool | None:
    """Whether the second date is later; None where they are equal as far as both are known."""
    if one[1] == two[1] == "file" and abs(_moment(one[0]) - _moment(two[0])) < _ONE_MINUTE:
        return None
    precision = min(len(one[0]), len(two[0]))
    first, second = one[0][:precision], two[0][:precision]
    return None if first == second else second > first


def _moment(date: str) -> float:
    return datetime.fromisoformat(date).timestamp()
