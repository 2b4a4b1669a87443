"""What lies on a store's disk for its writer: the atoms of the current version, of older ones, and those that an
interrupted run has left."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from atomlora.atom import Atom
from atomlora.errors import CorruptStoreError, StoreError
from atomlora.store.catalogue import Catalogue
from atomlora.store.files import DamagedFileError, reading
from atomlora.store.manifest import Manifest, ManifestFolder, SegmentEntry
from atomlora.store.objects import ObjectFolder
from atomlora.store.segments import Place, read_segment

_logger = logging.getLogger(__name__)


class Staged:
    """The part of `StoreWriter` that knows which atoms have weights in the store, and where; looked up once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head: Manifest | None = None
        """The version that a commit will have as its parent; None in a new store."""
        self._objects = ObjectFolder(path / "objects")
        self._manifests = ManifestFolder(path / "manifests")
        self._scanned = False
        self._atoms: dict[str, Atom] = {}
        self._places: dict[tuple[str, str], Place] = {}  # by atom id and weights digest
        self._segments: dict[str, SegmentEntry] = {}
        self._head_sources: dict[str, tuple[str, ...]] = {}  # of every atom of the current version, by id

    def _place(self, atom: Atom) -> Place:
        self._scan()
        place = self._places.get((atom.id, atom.weights_digest))
        if place is None:
            raise StoreError(
                f"{self.path}: atom {atom.id[:12]} has no weights in the store; hand them to write_segment first"
            )
        return place

    def _scan(self) -> None:
        """Learn what is on disk, once: first the current version, whose say counts, then all other
        segments, newest first."""
        if self._scanned:
            return
        self._scanned = True
        complete = self._scan_head() if self.head is not None else set()
        others = set(self._objects.digests()) - complete - self._foreign()
        for digest in sorted(others, key=self._age, reverse=True):
            try:
                placed = read_segment(self._objects, digest)
            except CorruptStoreError as error:
                _logger.warning("%s; its atoms do not count", error)
                self._forget(digest)
                continue
            if placed is None:
                continue
            self._segments[digest] = self._segment_entry(digest, len(placed))
            for atom, place in placed:
                self._atoms.setdefault(atom.id, atom)
                self._places.setdefault((atom.id, atom.weights_digest), place)

    def _scan_head(self) -> set[str]:
        """Learn the current version's atoms; returns its segments of which no other atom is left to learn."""
        assert self.head is not None
        sizes = {segment.sha256: segment for segment in self.head.segments if self._has(segment)}
        counts: Counter[str] = Counter()
        for entry in Catalogue(self._objects, self.head.catalogue):
            counts[entry.segment] += 1
            self._head_sources[entry.atom.id] = entry.sources
            if entry.segment in sizes:
                self._atoms[entry.atom.id] = entry.atom
                self._places[entry.atom.id, entry.atom.weights_digest] = entry.place
        self._segments.update(sizes)
        return {digest for digest, segment in sizes.items() if counts[digest] == segment.atoms}

    def _has(self, segment: SegmentEntry) -> bool:
        try:
            if self._objects.size(segment.sha256) == segment.size_bytes:
                return True
            raise DamagedFileError(self._objects.path(segment.sha256), "has another size than its manifest says")
        except CorruptStoreError as error:
            _logger.warning("%s; its atoms do not count", error)
            return False

    def _foreign(self) -> set[str]:
        """Objects that are known to be no segments."""
        found: set[str] = set()
        for version in self._manifests.versions():
            try:
                manifest = self._manifests.read(version)
            except StoreError as error:
                _logger.warning("%s", error)
                continue
            segments = {segment.sha256 for segment in manifest.segments} | {manifest.one_adapter}
            found |= set(manifest.objects()) - segments
        return found

    def _age(self, digest: str) -> tuple[int, str]:
        path = self._objects.path(digest)
        with reading(path):
            return path.stat().st_mtime_ns, digest

    def _segment_entry(self, digest: str, atoms: int) -> SegmentEntry:
        return SegmentEntry(sha256=digest, size_bytes=self._objects.size(digest), atoms=atoms)

    def _forget(self, digest: str) -> None:
        """Take back what the current version said of a segment that turned out damaged."""
        gone = [key for key, place in self._places.items() if place.segment == digest]
        for key in gone:
            del self._places[key]
            if (atom := self._atoms.get(key[0])) is not None and atom.weights_digest == key[1]:
                del self._atoms[key[0]]
        self._segments.pop(digest, None)
