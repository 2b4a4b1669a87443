"""What a version is found by: its keys, the router's calibration on them, and who contradicts whom among neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from atomlora.atom import Atom
from atomlora.compiler.plan import Plan
from atomlora.conflicts.find import find_conflicts
from atomlora.conflicts.newest import first_seen
from atomlora.conflicts.records import ConflictRecord
from atomlora.errors import CorruptStoreError, StoreError
from atomlora.router import Embedder
from atomlora.runtime.keys import fit_store_calibration, kept_keys, store_keys
from atomlora.store import Manifest, Store, StoreWriter

RECALIBRATE_SHARE = 0.05  # of the atoms: when more than these have changed, gates are fitted anew

Keys = tuple[np.ndarray, np.ndarray]  # embeddings float32 (n, d), positions int32 (n,)


class Routing(NamedTuple):
    """The keys, the calibration, and how many atoms came or went since that was fitted."""

    keys: Keys
    calibration: dict[str, Any]
    changed: int


def routing_of(atoms: Sequence[Atom], plan: Plan, writer: StoreWriter) -> Routing:
    """Embeds the keys that the version before has not, and fits the calibration unless few keys have changed."""
    ids = {atom.id for atom in atoms}
    known = _known(plan, writer)
    changed = _changed(writer.head, plan, len(ids ^ {atom.id for atom in plan.current}), len(ids)) if known else None
    keys = store_keys(atoms)
    texts = [text for _, text in keys]
    embeddings = _embeddings(texts, plan.embedder, known)
    positions = np.array([position for position, _ in keys], dtype=np.int32)
    if changed is not None and writer.head is not None:
        return Routing((embeddings, positions), dict(writer.head.calibration), changed)
    fitted = fit_store_calibration(plan.embedder, atoms, (embeddings, positions, texts), writer.path)
    return Routing((embeddings, positions), fitted.model_dump(mode="json"), 0)


def found_conflicts(atoms: Sequence[Atom], keys: Keys, writer: StoreWriter) -> list[ConflictRecord]:
    """Which atoms contradict each other; an atom's first key is its bare text."""
    embeddings, positions = keys
    numbers, first = np.unique(positions, return_index=True)

    def seen(ids: frozenset[str]) -> dict[str, int]:
        if writer.head is None:
            return first_seen(None, ids)
        with Store.open(writer.path) as current:
            return first_seen(current, ids)

    return find_conflicts([atoms[position] for position in numbers], embeddings[first], seen)


def _changed(head: Manifest | None, plan: Plan, changed: int, atoms: int) -> int | None:
    """How many atoms came or went since the calibration of the version before was fitted, `changed` now among
    them; None where that is so many, or so much else has changed, that it must be fitted anew.

    A new fit moves the gates of every atom a little, and so answers that have nothing to do with what was edited.
    """
    if head is None or not head.calibration or head.recipe != plan.recipe:
        return None
    since = int(head.stats.get("atoms_since_calibration", 0)) + changed
    return since if since <= RECALIBRATE_SHARE * atoms else None


def _known(plan: Plan, writer: StoreWriter) -> dict[str, np.ndarray]:
    """The embeddings of the version before by their texts; none where another embedder or other texts made them."""
    if writer.head is None or writer.head.embedder.fingerprint != plan.embedder.fingerprint:
        return {}
    with Store.open(writer.path) as old:
        try:
            vectors, _, texts = kept_keys(old, plan.current)
        except CorruptStoreError:
            raise
        except StoreError:  # which says to compile again
            return {}
    return dict(zip(texts, vectors, strict=True))


def _embeddings(texts: Sequence[str], embedder: Embedder, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """float32 (n, d); those that are known are taken over."""
    fresh = list(dict.fromkeys(text for text in texts if text not in known))
    found = {**known, **dict(zip(fresh, embedder.encode(fresh) if fresh else (), strict=True))}
    return np.array([found[text] for text in texts], np.float32).reshape(len(texts), embedder.dimension)
