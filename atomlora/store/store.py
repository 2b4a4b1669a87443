"""`Store`: a reader's snapshot of one version. It never changes a file but its cache, and needs no lock.

objects/ab/abcd…   content-addressed: segments, catalogues, keys
manifests/<sha256>.json   one per version, linked to its parent
HEAD               the current version; replacing it is the only commit point
tags/              names for versions
evaluations/       what versions scored on golden sets
shallow            versions that gc removed
cache/             rebuilt when absent, stale or broken
lock               held by the writer
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomlora.atom import Atom
from atomlora.errors import CorruptStoreError, StoreError
from atomlora.store.beside import Beside
from atomlora.store.cache import CatalogueIndex
from atomlora.store.catalogue import Catalogue, Entry
from atomlora.store.files import DamagedFileError, make_folder
from atomlora.store.keys import read_keys
from atomlora.store.layout import HEX, MINIMUM_PREFIX, create_store, read_head, require_store
from atomlora.store.lock import WriterLock
from atomlora.store.maintenance import GcReport, Verifier, VerifyReport, collect_garbage
from atomlora.store.manifest import Manifest, ManifestFolder
from atomlora.store.objects import ObjectFolder
from atomlora.store.records import from_bytes, size_bytes, unpack
from atomlora.store.refs import resolve, shallow
from atomlora.store.remote import is_url
from atomlora.store.segments import Place, read_record
from atomlora.store.tombstones import Tombstone, read_tombstones

if TYPE_CHECKING:
    from atomlora.store.writer import StoreWriter

_OPEN_SEGMENTS = 64  # each mapping costs a file descriptor


class Store(Beside):
    """One version of a store, open for reading. Thread-safe. Later commits do not change what it shows."""

    def __init__(
        self, path: Path, manifest: Manifest, url: str | None = None, objects: ObjectFolder | None = None
    ) -> None:
        """Use `Store.open`. `url`: the address that the folder is a cache of; then the store is read-only."""
        self.path = path
        self.url = url
        self.manifest = manifest
        self._objects = objects or ObjectFolder(path / "objects")
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
        return create_store(Path(path))

    @classmethod
    def open(cls, path: Path | str, version: str | None = None) -> Store:
        """The store at `path`: its current version, or the one that `version` names (a digest or its start, a
        tag, HEAD, or one of these with `~N` for its N-th ancestor). An fsspec address (s3://…) is opened
        read-only, through a cache in $ATOMLORA_CACHE.

        Raises StoreError when there is no store, no version, or a newer format; CorruptStoreError for changed
        bytes.
        """
        if is_url(path):
            from atomlora.bases import cache_folder
            from atomlora.store.mirror import mirror

            folder, objects = mirror(str(path), cache_folder() / "stores")
            current = resolve(folder, version or "HEAD")
            return cls(folder, ManifestFolder(folder / "manifests").read(current), str(path), objects)
        folder = Path(path)
        require_store(folder)
        current = resolve(folder, "HEAD" if version is None else version)
        return cls(folder, ManifestFolder(folder / "manifests").read(current))

    @classmethod
    def writer(cls, path: Path | str) -> StoreWriter:
        """The writer for the store at `path`, which is created if there is none: `with Store.writer(path) as
        writer`.

        Entering raises StoreError at once, naming the holder, when another writer is at work.
        """
        from atomlora.store.writer import StoreWriter

        if is_url(path):
            raise StoreError(f"{path}: addresses are read-only; write to a folder, then: atomlora push FOLDER {path}")
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
        return (entry.atom for entry in self.entries())

    def entries(self) -> Iterator[Entry]:
        """All lines of the catalogue, in order: each atom and where its record stands."""
        return iter(self._catalogue)

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
        """What there is to know of an atom, for JSON: its fields, its segment, offset, size in bytes and dtype, and
        what of the version it was made by."""
        entry = self._entry(atom_id)
        place = {"segment": entry.segment, "offset": entry.offset, "size_bytes": entry.size, "dtype": entry.dtype}
        made = {"version": self.version, "recipe": self.manifest.recipe, "base": self.manifest.base.model_dump()}
        return {**entry.atom.model_dump(mode="json"), "scaling": entry.atom.scaling, **place, **made}

    def weights(self, atom_id: str) -> np.ndarray:
        """An atom's weights, bfloat16 as uint16 (n,): mapped from its segment, read-only, where they are stored
        so, else scaled from int8. Checked against `weights_digest` when first read; CorruptStoreError when the
        bytes have changed."""
        entry = self._entry(atom_id)
        return unpack(self.record(entry), entry.atom.rank, self.manifest.targets)

    def record(self, entry: Entry) -> np.ndarray:
        """The flat record of an entry of this version as it is stored, uint16 (n,) or uint8 (m,), read-only and
        checked as in `weights`."""
        if entry.size != size_bytes(entry.atom.rank, self.manifest.targets, entry.dtype):
            reason = f"the record of atom {entry.atom.id[:12]} has another size than its rank and the targets ask for"
            raise DamagedFileError(self._catalogue.path, reason)
        with self._lock:
            view, checked = self._segment(entry.segment)
            if entry.place in checked:
                return from_bytes(view[entry.offset : entry.offset + entry.size], entry.dtype)
            record = read_record(self._objects, view, entry.place, entry.atom.id, entry.atom.weights_digest)
            checked.add(entry.place)
            return record

    def keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings float32 (n, d) and positions int32 (n,) in the catalogue; read-only, verified."""
        return read_keys(self._objects, self.manifest.keys, len(self))

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
        manifests, gone = [self.manifest], shallow(self.path)
        while (parent := manifests[-1].parent) is not None:
            if parent in gone and not self._manifests.path(parent).exists():
                break
            manifests.append(self._manifests.read(parent))
        return manifests

    def tombstones(self) -> list[Tombstone]:
        """The atoms that this version left out and the one before it had."""
        digest = self.manifest.tombstones
        return [] if digest is None else list(read_tombstones(self._objects, digest))

    @property
    def versions(self) -> tuple[str, ...]:
        """This version and its ancestors, newest first."""
        return tuple(manifest.version for manifest in self.log())

    def verify(self) -> VerifyReport:
        """Read and check every byte of this version, of its ancestors, and then of every other version of the
        store, with tags and evaluations; the report names each bad file."""
        return Verifier(self.path, self._objects, self._manifests).run(self.version)

    def gc(self, dry_run: bool = False, keep: int | None = None) -> GcReport:
        """Remove objects that no manifest reaches (such as an interrupted compile's segments) and temporary
        files; with `keep`, first every version but the current one, the `keep` - 1 before it, and those with a
        tag.

        Takes the writer's lock: StoreError while a writer is at work. `dry_run` only reports.
        """
        if self.url is not None:
            raise StoreError(f"{self.url}: is read-only; pull it into a folder first")
        with WriterLock(self.path / "lock"):
            return collect_garbage(self.path, self._objects, self._manifests, dry_run, keep)

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
            raise StoreError(f"{self.path}: no atom {atom_id} in version {self.version[:12]}{self._epitaph(prefix)}")
        if len(rows) > 1:
            raise StoreError(
                f"{self.path}: several atoms start with {atom_id} ({rows[0][1][:16]}, {rows[1][1][:16]}, …); "
                "give more characters"
            )
        return self._parse(*rows[0][1:])

    def _parse(self, atom_id: str, offset: int, size: int, digest: bytes) -> Entry:
        """The entry at the place that the index names, checked against the digest taken of it there."""
        line = self._catalogue.line(offset, size)
        if hashlib.sha256(line).digest() != digest:
            self._catalogue.check()  # says so when it is the catalogue that has changed
            raise DamagedFileError(self.path / "cache", "does not fit the catalogue", "delete that folder")
        entry = self._catalogue.parse(line)
        if entry.atom.id != atom_id:
            raise DamagedFileError(self.path / "cache", "does not fit the catalogue", "delete that folder")
        return entry

    def _epitaph(self, prefix: str) -> str:
        """What became of an atom that this version lacks, where a tombstone of its history tells."""
        with contextlib.suppress(CorruptStoreError):
            for manifest in self.log():
                for stone in read_tombstones(self._objects, manifest.tombstones) if manifest.tombstones else ():
                    if stone.id.startswith(prefix):
                        place = f" (from {', '.join(stone.sources)})" if stone.sources else ""
                        return f"; version {manifest.version[:12]} removed it{place}, {manifest.version[:12]}~1 has it"
        return ""

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
