"""What lies between two versions: atoms that came, went, have other weights, or moved."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from atomlora.atom import Atom, Provenance, Record

if TYPE_CHECKING:
    from atomlora.store.store import Store


class AtomFact(Record):
    """An atom as a list of differences shows it; the place is that of its first provenance, if it has one."""

    id: str
    text: str
    source: str | None
    start: int | None
    end: int | None
    recall: float


class MovedAtom(Record):
    """An atom whose provenances differ: the sources before and now."""

    id: str
    text: str
    before: tuple[str, ...]
    now: tuple[str, ...]


class Difference(Record):
    """From version `a` to version `b`. `added` and `removed` are by identity (what an atom is trained from);
    `retrained` kept its identity and has other weights; `moved` stands in other places with the same weights.
    `settings` holds {name: (in a, in b)} of what differs in base, embedder, recipe and the top of the settings."""

    a: str
    b: str
    added: tuple[AtomFact, ...]
    removed: tuple[AtomFact, ...]
    retrained: tuple[AtomFact, ...]
    moved: tuple[MovedAtom, ...]
    unchanged: int
    settings: dict[str, tuple[Any, Any]]


def difference(a: Store, b: Store) -> Difference:
    """What changed from `a` to `b`; of the atoms that did not, only digests are held in memory."""
    before = {atom.id: (atom.weights_digest, _places_digest(atom.provenances)) for atom in a.atoms()}
    added, retrained = [], []
    kept: set[str] = set()
    elsewhere: dict[str, Atom] = {}
    for atom in b.atoms():
        known = before.get(atom.id)
        if known is None:
            added.append(_fact(atom))
            continue
        kept.add(atom.id)
        if known[0] != atom.weights_digest:
            retrained.append(_fact(atom))
        elif known[1] != _places_digest(atom.provenances):
            elsewhere[atom.id] = atom
    removed, moved = [], []
    if len(kept) < len(before) or elsewhere:
        for atom in a.atoms():
            if atom.id not in kept:
                removed.append(_fact(atom))
            elif (now := elsewhere.get(atom.id)) is not None:
                moved.append(MovedAtom(id=atom.id, text=atom.text, before=_sources(atom), now=_sources(now)))
    return Difference(
        a=a.version,
        b=b.version,
        added=tuple(added),
        removed=tuple(removed),
        retrained=tuple(retrained),
        moved=tuple(moved),
        unchanged=len(kept) - len(retrained) - len(moved),
        settings=_settings(a, b),
    )


def _fact(atom: Atom) -> AtomFact:
    place = atom.provenances[0] if atom.provenances else None
    return AtomFact(
        id=atom.id,
        text=atom.text,
        source=place.source if place else None,
        start=place.start if place else None,
        end=place.end if place else None,
        recall=atom.record.recall,
    )


def _sources(atom: Atom) -> tuple[str, ...]:
    return tuple(f"{place.source}:{place.start}-{place.end}" for place in atom.provenances)


def _places_digest(places: tuple[Provenance, ...]) -> bytes:
    return hashlib.sha256(repr([(p.source, p.start, p.end, p.page) for p in places]).encode()).digest()


def _settings(a: Store, b: Store) -> dict[str, tuple[Any, Any]]:
    one, other = ({**_flat(s.manifest.settings), **_identity(s)} for s in (a, b))
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return {name: (one.get(name), other.get(name)) for name in names}


def _identity(store: Store) -> dict[str, Any]:
    manifest = store.manifest
    return {"base": manifest.base.fingerprint, "embedder": manifest.embedder.fingerprint, "recipe": manifest.recipe}


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
