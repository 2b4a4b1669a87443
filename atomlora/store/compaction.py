"""Compaction: the current version's atoms out of many small, or partly used, segments into few large ones.

It makes a version like any other, whose parent is the one before: old segments stay until `gc --keep` forgets the
versions that need them. It can change how records are stored on the way (see `atomlora.store.records`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from atomlora.atom import Atom, Record
from atomlora.errors import StoreError
from atomlora.store.manifest import Manifest
from atomlora.store.records import RecordType, pack, record_type, size_bytes, weights_digest
from atomlora.store.store import Store

SEGMENT_BYTES = 64 << 20
SEGMENT_ATOMS = 4096  # bounds a segment's header, which names every atom


class CompactReport(Record):
    """What `compact` did: segments of the current version before and after, atoms whose records were written anew,
    and the bytes of all records. `version` is the one before where nothing was to be done."""

    version: str
    segments_before: int
    segments_after: int
    atoms_rewritten: int
    bytes_before: int
    bytes_after: int


def compact(path: Path | str, storage: RecordType | None = None) -> CompactReport:
    """Rewrite the atoms of small segments (less than half of SEGMENT_BYTES and of SEGMENT_ATOMS) and of segments
    that also hold atoms which the version left out; with `storage`, also every atom that is stored otherwise.

    Holds one segment's weights at a time. Raises StoreError while a writer is at work, CorruptStoreError when bytes
    have changed; then the current version stays.
    """
    with Store.open(path) as store, Store.writer(path) as writer:
        manifest = writer.head
        if manifest is None or manifest.version != store.version:
            raise StoreError(f"{path}: a new version came in between; run the same command again")
        writer.finished()
        segments_before = len(manifest.segments)
        chosen = _chosen(store, storage)
        bytes_before = sum(entry.size for entry in store.entries())
        rewritten: dict[str, str] = {}
        if chosen:
            for batch in _batches(store, chosen, storage):
                writer.write_segment(batch)
                rewritten |= {atom.id: atom.weights_digest for atom, _ in batch}
            atoms = [_with_digest(atom, rewritten) for atom in store.atoms()]
            manifest = writer.recommit(atoms, _message(storage), _settings(manifest, storage))
    with Store.open(path, manifest.version) as store:
        return CompactReport(
            version=manifest.version,
            segments_before=segments_before,
            segments_after=len(manifest.segments),
            atoms_rewritten=len(rewritten),
            bytes_before=bytes_before,
            bytes_after=sum(entry.size for entry in store.entries()),
        )


def _chosen(store: Store, storage: RecordType | None) -> set[str]:
    """Ids of the atoms to rewrite; none where that would only copy one small segment into another."""
    used: Counter[str] = Counter()
    others: set[str] = set()
    for entry in store.entries():
        used[entry.segment] += 1
        if storage is not None and entry.dtype != storage:
            others.add(entry.atom.id)
    poor = {
        segment.sha256
        for segment in store.manifest.segments
        if (segment.size_bytes < SEGMENT_BYTES // 2 and segment.atoms < SEGMENT_ATOMS // 2)
        or used[segment.sha256] < segment.atoms
    }
    if len(poor) == 1 and all(used[segment.sha256] == segment.atoms for segment in store.manifest.segments):
        poor = set()
    return others | {entry.atom.id for entry in store.entries() if entry.segment in poor}


def _batches(store: Store, chosen: set[str], storage: RecordType | None) -> Iterator[list[tuple[Atom, np.ndarray]]]:
    """The chosen atoms in the catalogue's order with their records, a segment's worth at a time."""
    batch: list[tuple[Atom, np.ndarray]] = []
    size = 0
    for entry in store.entries():
        if entry.atom.id not in chosen:
            continue
        record, atom = store.record(entry), entry.atom
        if storage is not None and storage != record_type(record):
            record = pack(record, atom.rank, store.manifest.targets, storage)
            atom = atom.model_copy(update={"weights_digest": weights_digest(record)})
        needed = size_bytes(atom.rank, store.manifest.targets, record_type(record))
        if batch and (size + needed > SEGMENT_BYTES or len(batch) >= SEGMENT_ATOMS):
            yield batch
            batch, size = [], 0
        batch.append((atom, record))
        size += needed
    if batch:
        yield batch


def _with_digest(atom: Atom, digests: dict[str, str]) -> Atom:
    return atom.model_copy(update={"weights_digest": digests[atom.id]}) if atom.id in digests else atom


def _message(storage: RecordType | None) -> str:
    return "compacted" if storage is None else f"compacted, stored as {storage}"


def _settings(manifest: Manifest, storage: RecordType | None) -> dict[str, object]:
    return dict(manifest.settings) if storage is None else {**manifest.settings, "storage": storage}
