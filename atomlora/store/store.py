"""`Store`: a reader's snapshot of one version. It never changes a file but its cache, and needs no lock.

objects/ab/abcd…   content-addressed: segments, catalogues, keys
manifests/<sha256>.json   one per version, linked to its parent
HEAD               the current version; replacing it is the only commit point
cache/             rebuilt when absent, stale or broken
lock               held by the writer
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomlora.atom import Atom
from atomlora.errors import StoreError
from atomlora.store.cache import CatalogueIndex
from atomlora.store.catalogue import Catalogue, Entry
from atomlora.store.files import DamagedFileError, make_folder
from atomlora.store.interference import read_interference
from atomlora.store.keys import read_keys
from atomlora.store.layout import HEX, MINIMUM_PREFIX, is_ours, read_head, require_store, resolve_version
from atomlora.store.lock import WriterLock
from atomlora.store.maintenance import GcReport, Verifier, VerifyReport, collect_garbage
from atomlora.store.manifest import Manifest, ManifestFolder
from atomlora.store.objects import ObjectFolder
from atomlora.store.segments import Place, read_record

if TYPE_CHECKING:
    from atomlora.interference.records import InterferenceRecords
    from atomlora.store.writer import StoreWriter

_OPEN_SEGMENTS = 64  # each mapping costs a file descriptor


class Store:
    """One version of a store, open for reading. Thread-safe. Later commits do not change what it shows."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Use `Store.open`."""
        self.path = path
        self.manifest = manifest
        self._objects = ObjectFolder(path / "objects")
        self._manifests = ManifestFolder(path / "manifests")
        self._lock = threading.RLock()
        self._mapped: OrderedDict[str, tuple[memoryview, set[Place]]] = OrderedDict()
        self._segment_sizes = {segment.sha256: segment.size_bytes for segment in manifest.segments}

    # Opening

    @classmethod
    def create(cls, path: Path | str) -> Path:
        """Make an empty store (a folder without a version) at `path` and return the path; an existing store
        stays.

        Raises StoreError when `path` is a file or a folder with other things in it, or cannot be written.
        """
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder}: is a file; give a folder for the store")
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        foreign = [name for name in names if not is_ours(name)]
        if foreign:
            raise StoreError(
                f"{folder}: is not an atomlora store and not empty (it has {foreign[0]!r}); give a new folder"
            )
        for place in (*reversed(folder.absolute().parents), folder, folder / "objects", folder / "manifests"):
            if not place.is_dir():
                make_folder(place)
        return folder

    @classmethod
    def open(cls, path: Path | str, version: str | None = None) -> Store:
        """The store at `path`: its current version, or the one that `version` (a digest or its start) names.

        Raises StoreError when there is no store, no version, or a newer format; CorruptStoreError for changed
        bytes.
        """
        folder = Path(path)
        manifests = ManifestFolder(folder / "manifests")
        if version is None:
            current = read_head(folder)
            if current is None:
                raise StoreError(f"{folder}: has no version yet (its first compile did not finish); compile again")
        else:
            require_store(folder)
            current = resolve_version(manifests, version)
        return cls(folder, manifests.read(current))

    @classmethod
    def writer(cls, path: Path | str) -> StoreWriter:
        """The writer for the store at `path`, which is created if there is none: `with Store.writer(path) as
        writer`.

        Entering raises StoreError at once, naming the holder, when another writer is at work.
        """
        from atomlora.store.writer import StoreWriter

        return StoreWriter(Path(path))

    def close(self) -> None:
        """Let go of the files. Weights already handed out stay valid."""
        with self._lock:
            self._mapped.clear()
            if index := self.__dict__.pop("_index", None):
                index.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # Atoms

    @property
    def version(self) -> str:
        """The version's name: the sha256 of its manifest."""
        return self.manifest.version

    def __len__(self) -> int:
        return len(self._index)

    def atoms(self) -> Iterator[Atom]:
        """All atoms in the order of their positions."""
        return (entry.atom for entry in self._catalogue)

    def get(self, atom_id: str) -> Atom:
        """The atom with this id or this unique start of an id (6 hex characters or more); StoreError
        otherwise."""
        return self._entry(atom_id).atom

    def at(self, position: int) -> Atom:
        """The atom at a position of the catalogue, as the keys give it; StoreError when there is none."""
        rows = self._index.by_position(position)
        if not rows:
            raise StoreError(f"{self.path}: no atom at position {position}; the version has {len(self)} atoms")
        return self._parse(*rows[0][1:]).atom

    def from_source(self, source: str) -> list[Atom]:
        """The atoms with a provenance in `source` (a path as provenances write it), in the catalogue's
        order."""
        return [self._parse(*row[1:]).atom for row in self._index.by_source(source)]

    def show(self, atom_id: str) -> dict[str, Any]:
        """What there is to know of an atom, for JSON: its fields, its segment, offset and size in bytes."""
        entry = self._entry(atom_id)
        place = {"segment": entry.segment, "offset": entry.offset, "size_bytes": entry.size}
        return {**entry.atom.model_dump(mode="json"), "scaling": entry.atom.scaling, **place}

    def weights(self, atom_id: str) -> np.ndarray:
        """An atom's record, bfloat16 as uint16 (n,), read-only: mapped from its segment, and checked against
        `weights_digest` when it is first read. CorruptStoreError when it has changed."""
        entry = self._entry(atom_id)
        with self._lock:
            view, checked = self._segment(entry.segment)
            if entry.place in checked:
                return np.frombuffer(view[entry.offset : entry.offset + entry.size], dtype="<u2")
            record = read_record(self._objects, view, entry.place, entry.atom.id, entry.atom.weights_digest)
            checked.add(entry.place)
            return record

    def keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings float32 (n, d) and positions int32 (n,) in the catalogue; read-only, verified."""
        return read_keys(self._objects, self.manifest.keys, len(self))

    def interference(self) -> InterferenceRecords | None:
        """What the version's atoms do to each other, verified; None where nothing was measured."""
        digest = self.manifest.interference
        return None if digest is None else read_interference(self._objects, digest)

    def cache_path(self, name: str) -> Path:
        """Where a cache called `name` (a plain file name) lies. What is put there must carry `version` and
        its own digest, and be made anew when they differ."""
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise StoreError(f"{name!r} is not a plain file name for a cache")
        folder = self.path / "cache"
        if not folder.is_dir():
            make_folder(folder)
        return folder / name

    # Versions

    def log(self) -> list[Manifest]:
        """The manifests of this version and its ancestors, newest first; each knows its `version`."""
        manifests = [self.manifest]
        while (parent := manifests[-1].parent) is not None:
            manifests.append(self._manifests.read(parent))
        return manifests

    @property
    def versions(self) -> tuple[str, ...]:
        """This version and its ancestors, newest first."""
        return tuple(manifest.version for manifest in self.log())

    def verify(self) -> VerifyReport:
        """Read and check every byte of this version and of its ancestors; the report names each bad file."""
        return Verifier(self.path, self._objects, self._manifests).run(self.version)

    def gc(self, dry_run: bool = False) -> GcReport:
        """Remove objects that no manifest reaches (such as an interrupted compile's segments) and temporary
        files.

        Takes the writer's lock: StoreError while a writer is at work. `dry_run` only reports.
        """
        with WriterLock(self.path / "lock"):
            return collect_garbage(self.path, self._objects, self._manifests, dry_run)

    # Inside

    @cached_property
    def _catalogue(self) -> Catalogue:
        return Catalogue(self._objects, self.manifest.catalogue)

    @cached_property
    def _index(self) -> CatalogueIndex:
        with self._lock:
            made: CatalogueIndex | None = self.__dict__.get("_index")
            if made is not None:
                return made
            # One cache file serves the current version; snapshots of others must not take turns in rewriting
            # it.
            current = read_head(self.path) == self.version
            return CatalogueIndex(self._catalogue, self.version, self.path / "cache" if current else None)

    def _entry(self, atom_id: str) -> Entry:
        prefix = atom_id.lower()
        if not MINIMUM_PREFIX <= len(prefix) <= 64 or not HEX.issuperset(prefix):
            raise StoreError(
                f"{atom_id[:80]!r} is not an atom id; give it, or its first {MINIMUM_PREFIX} hex characters or more"
            )
        rows = self._index.by_prefix(prefix, limit=2)
        if not rows:
            raise StoreError(f"{self.path}: no atom {atom_id} in version {self.version[:12]}")
        if len(rows) > 1:
            raise StoreError(
                f"{self.path}: several atoms start with {atom_id} ({rows[0][1][:16]}, {rows[1][1][:16]}, …); "
                "give more characters"
            )
        return self._parse(*rows[0][1:])

    def _parse(self, atom_id: str, offset: int, size: int) -> Entry:
        """The entry from the verified catalogue at the place that the cache names."""
        entry = self._catalogue.parse(self._catalogue.line(offset, size))
        if entry.atom.id != atom_id:
            raise DamagedFileError(self.path / "cache", "does not fit the catalogue", "delete that folder")
        return entry

    def _segment(self, digest: str) -> tuple[memoryview, set[Place]]:
        if digest in self._mapped:
            self._mapped.move_to_end(digest)
            return self._mapped[digest]
        view, path = self._objects.map_unverified(digest), self._objects.path(digest)
        if self._segment_sizes.get(digest) != len(view):
            raise DamagedFileError(
                path, f"has {len(view)} bytes, not the {self._segment_sizes.get(digest)} it must have"
            )
        self._mapped[digest] = (view, set())
        if len(self._mapped) > _OPEN_SEGMENTS:
            self._mapped.popitem(last=False)
        return self._mapped[digest]
