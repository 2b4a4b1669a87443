"""The one writer of a store: stages segments durably as training goes on, then commits a version in one
step."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from atomlora.atom import Atom, Target
from atomlora.conflicts.records import ConflictRecord
from atomlora.errors import StoreError
from atomlora.interference.records import InterferenceRecords
from atomlora.store.cache import CatalogueIndex
from atomlora.store.catalogue import Catalogue, Entry, write_catalogue
from atomlora.store.conflicts import write_conflicts
from atomlora.store.files import (
    DamagedFileError,
    fsync_folder,
    remove_temporaries,
    replace_durably,
    writing,
)
from atomlora.store.interference import write_interference
from atomlora.store.keys import write_keys
from atomlora.store.layout import read_head
from atomlora.store.lock import WriterLock
from atomlora.store.manifest import FORMAT_VERSION, Manifest, ModelName, SegmentEntry
from atomlora.store.records import size_bytes
from atomlora.store.segments import read_record, write_segment
from atomlora.store.staged import Staged
from atomlora.store.store import Store
from atomlora.store.tombstones import Tombstone, write_tombstones

_logger = logging.getLogger(__name__)


class StoreWriter(Staged):
    """Use as `with Store.writer(path) as writer`. Not thread-safe. What `write_segment` returned from
    survives any crash; what `commit` returned from is the current version. A folder that was made for it goes again
    where it fails before it has written anything."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock: WriterLock | None = None
        self._made = False

    def __enter__(self) -> StoreWriter:
        self._made = not self.path.exists()
        Store.create(self.path)
        lock = WriterLock(self.path / "lock")
        lock.__enter__()
        try:
            for folder in (self.path, self._objects.folder, self._manifests.folder):
                remove_temporaries(folder)  # of writers that were killed: the lock says that none is alive
                with writing(folder):
                    fsync_folder(folder)  # and what they named in the folder may not be durable yet
            self.head = self._read_head()
        except BaseException:
            lock.__exit__()
            raise
        self._lock = lock
        return self

    def __exit__(self, failure: object = None, *_: Any) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            if self._made and failure is not None:
                self._unmake()
            lock.__exit__()

    def _unmake(self) -> None:
        with contextlib.suppress(OSError):  # a folder that holds something stays, and what is left to do with it
            for folder in (self._objects.folder, self._manifests.folder):
                folder.rmdir()
            (self.path / "lock").unlink()
            self.path.rmdir()

    def finished(self) -> dict[str, Atom]:
        """Every atom in a segment on disk, by id: of the current version, of older ones, or staged by an
        interrupted run. Atoms whose segment is missing or damaged are left out, with a warning, so that they
        are trained anew."""
        self._require_open()
        self._scan()
        return dict(self._atoms)

    def weights(self, atom: Atom) -> np.ndarray:
        """The flat record of an atom that `finished` knows or `write_segment` wrote, as it is stored (uint16 (n,)
        or uint8 (m,), see `atomlora.store.records`), read-only, verified."""
        self._require_open()
        place = self._place(atom)
        view = self._objects.map_unverified(place.segment)
        return read_record(self._objects, view, place, atom.id, atom.weights_digest)

    def write_segment(self, items: Sequence[tuple[Atom, np.ndarray]]) -> str:
        """Stage trained atoms with their flat records (uint16 (n,) for bf16, uint8 (m,) for int8); returns the
        segment's digest.

        The segment is durable on return, whether or not a commit follows. Raises StoreError, with nothing
        left on disk, when the disk fails or an item is not right (see `segments.write_segment`).
        """
        self._require_open()
        self._scan()
        digest, placed = write_segment(self._objects, items)
        self._segments[digest] = self._segment_entry(digest, len(placed))
        for atom, place in placed:
            self._atoms[atom.id] = atom
            self._places[atom.id, atom.weights_digest] = place
        return digest

    def segment_of(self, atom: Atom) -> str:
        """The digest of the segment of an atom that `finished` knows or `write_segment` wrote."""
        return self._place(atom).segment

    def commit(
        self,
        atoms: Sequence[Atom],
        keys: tuple[np.ndarray, np.ndarray],
        *,
        base: ModelName | Mapping[str, str],
        embedder: ModelName | Mapping[str, str],
        settings: Mapping[str, Any],
        recipe: str,
        targets: Sequence[Target],
        message: str = "",
        calibration: Mapping[str, Any] | None = None,
        stats: Mapping[str, Any] | None = None,
        created: str | None = None,
        conflicts: Sequence[ConflictRecord] = (),
        one_adapter: str | None = None,
        interference: InterferenceRecords | None = None,
    ) -> Manifest:
        """Make `atoms` (in this order: position = index) the current version, and return its manifest.

        `keys` are embeddings float32 (n, d) and positions int32 (n,). Provenances and labels are taken from `atoms` as
        they are given; the weights must have been staged, now or earlier. `conflicts` are those among these atoms,
        `one_adapter` is the segment of the one adapter for all of them, `interference` what they do to each other.
        Raises StoreError otherwise, or when the disk fails: then the version before stays the current one, unless only
        the very last fsync failed.
        """
        self._require_open()
        self._scan()
        entries = [self._entry(atom, tuple(targets)) for atom in atoms]
        if twice := [atom_id for atom_id, count in Counter(atom.id for atom in atoms).items() if count > 1]:
            raise StoreError(f"atom {twice[0][:12]} comes twice in one version")
        ids = {atom.id for atom in atoms}
        gone = [Tombstone(id=i, sources=sources) for i, sources in self._head_sources.items() if i not in ids]
        manifest = Manifest(
            parent=self.head.version if self.head is not None else None,
            created=created or _now(),
            message=message,
            base=ModelName.model_validate(base),
            embedder=ModelName.model_validate(embedder),
            settings=dict(settings),
            recipe=recipe,
            targets=tuple(targets),
            segments=self._used(entries),
            catalogue=write_catalogue(self._objects, entries),
            keys=write_keys(self._objects, *keys, atoms=len(entries)),
            calibration=dict(calibration or {}),
            stats=dict(stats or {}),
            conflicts=write_conflicts(self._objects, conflicts) if conflicts else None,
            one_adapter=one_adapter,
            tombstones=write_tombstones(self._objects, gone) if gone else None,
            interference=None if interference is None else write_interference(self._objects, interference),
        )
        return self._publish(manifest, entries)

    def recommit(
        self,
        atoms: Sequence[Atom],
        message: str,
        settings: Mapping[str, Any] | None = None,
        calibration: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """A version that differs from the current one only in where and how its atoms' records stand, and in
        `settings` and `calibration` where they are given. `atoms` are those of the current version, in its order, with
        the digests of the records that are to count, which must have been staged."""
        self._require_open()
        if self.head is None:
            raise StoreError(f"{self.path}: has no version yet; compile first")
        self._scan()
        entries = [self._entry(atom, self.head.targets) for atom in atoms]
        if [entry.atom.id for entry in entries] != list(self._head_sources):
            raise StoreError(f"{self.path}: recommit takes the atoms of the current version, in its order")
        changed: dict[str, Any] = {} if settings is None else {"settings": dict(settings)}
        if calibration is not None:
            stats = {**self.head.stats, "atoms_since_calibration": 0}
            changed |= {"calibration": dict(calibration), "stats": stats}
        return self._publish(
            self.head.model_copy(
                update={
                    "format_version": FORMAT_VERSION,
                    "parent": self.head.version,
                    "created": _now(),
                    "message": message,
                    "segments": self._used(entries),
                    "catalogue": write_catalogue(self._objects, entries),
                    "tombstones": None,
                    **changed,
                }
            ),
            entries,
        )

    def _publish(self, manifest: Manifest, entries: Sequence[Entry]) -> Manifest:
        """Write a manifest and make it the current version; then its index, which readers would else make."""
        written = self._manifests.write(manifest)
        replace_durably(self.path / "HEAD", f"{written.version}\n".encode())
        self.head = written
        self._head_sources = {entry.atom.id: entry.sources for entry in entries}
        try:
            catalogue = Catalogue(self._objects, written.catalogue)
            CatalogueIndex(catalogue, written.version, self.path / "cache").close()
        except StoreError as error:  # the version stands; whoever reads it will say the same
            _logger.warning("%s", error)
        return written

    def _used(self, entries: Sequence[Entry]) -> tuple[SegmentEntry, ...]:
        """The segments of a version, in the order in which its atoms need them."""
        return tuple(self._segments[digest] for digest in dict.fromkeys(entry.segment for entry in entries))

    def _require_open(self) -> None:
        if self._lock is None:
            raise StoreError(f"{self.path}: the writer is not open; use `with Store.writer(path) as writer`")

    def _read_head(self) -> Manifest | None:
        try:
            version = read_head(self.path)
        except DamagedFileError as error:
            if (self.path / "HEAD").exists():
                raise
            _logger.warning("%s; starting a new history", error)  # all versions stay, and are found by name
            return None
        return self._manifests.read(version) if version is not None else None

    def _entry(self, atom: Atom, targets: tuple[Target, ...]) -> Entry:
        place = self._place(atom)
        size = size_bytes(atom.rank, targets, place.dtype)
        if place.size != size:
            raise StoreError(
                f"atom {atom.id[:12]}: its record has {place.size} bytes, but rank {atom.rank} and the "
                f"targets ask for {size}"
            )
        return Entry(atom=atom, segment=place.segment, offset=place.offset, size=place.size, dtype=place.dtype)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
