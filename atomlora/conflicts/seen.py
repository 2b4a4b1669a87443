"""What may be told of two atoms: no more of where they stand than everybody who is routed to both may see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from atomlora.atom import Atom
from atomlora.conflicts.newest import FIRST_VERSION
from atomlora.conflicts.records import ConflictRecord, Side


def viewers(a: Atom, b: Atom) -> frozenset[str | None]:
    """The tenants whose questions can be routed to both atoms; {None} where everybody's can."""
    walled = [atom.tenants for atom in (a, b) if None not in atom.tenants]
    return walled[0].intersection(*walled[1:]) if walled else frozenset([None])


def seen_by_both(a: Atom, b: Atom) -> tuple[Atom, Atom]:
    """The two at the places that all their viewers may see: everybody's, and a tenant's where it is the only viewer.
    An atom of which nothing is hidden is the very same object."""
    group = viewers(a, b)
    wanted: set[str | None] = {None, *group} if len(group) == 1 else {None}
    return _at(a, wanted), _at(b, wanted)


def tellable(records: Iterable[ConflictRecord], atoms: Mapping[str, Atom]) -> list[ConflictRecord]:
    """The records of a version with `atoms` by id, less what not all who meet a conflict may see. Records of older
    compiles judged an atom by the latest of its places, whoever's, or by the first version that had any; where one is
    hidden that counted, neither is known to be newer."""
    return [_told(record, atoms) for record in records if record.pair <= atoms.keys()]


def _told(record: ConflictRecord, atoms: Mapping[str, Atom]) -> ConflictRecord:
    both = atoms[record.older.atom], atoms[record.newer.atom]
    seen = seen_by_both(*both)
    if all(one is whole for one, whole in zip(seen, both, strict=True)):
        return record
    sides = [_shown(side, atom) for side, atom in zip((record.older, record.newer), seen, strict=True)]
    fair = sides == [record.older, record.newer] and record.decided_by != FIRST_VERSION
    decided_by = record.decided_by if fair else None
    return record.model_copy(update={"older": sides[0], "newer": sides[1], "decided_by": decided_by})


def _shown(side: Side, atom: Atom) -> Side:
    """The side itself where its place may be named, else without it."""
    sources, dates = {place.source for place in atom.provenances}, {place.date for place in atom.provenances}
    if side.source in {None, *sources} and side.date in {None, *dates}:
        return side
    return side.model_copy(update={"source": None, "date": None})


def _at(atom: Atom, wanted: set[str | None]) -> Atom:
    places = tuple(place for place in atom.provenances if place.tenant in wanted)
    return atom if len(places) == len(atom.provenances) else atom.model_copy(update={"provenances": places})
