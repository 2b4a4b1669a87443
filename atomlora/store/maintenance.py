"""Looking after a store: `verify` reads every byte of every version, `gc` removes what no version needs."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from atomlora.atom import Record
from atomlora.errors import StoreError
from atomlora.store.catalogue import Catalogue
from atomlora.store.conflicts import read_conflicts
from atomlora.store.evaluations import EvaluationFolder
from atomlora.store.files import (
    DamagedFileError,
    fsync_folder,
    remove_abandoned,
    remove_temporaries,
    replace_durably,
    writing,
)
from atomlora.store.interference import read_interference
from atomlora.store.keys import read_keys
from atomlora.store.manifest import Manifest, ManifestFolder, SegmentEntry
from atomlora.store.objects import ObjectFolder
from atomlora.store.refs import TagFolder, resolve, shallow
from atomlora.store.segments import Place, read_record, read_single
from atomlora.store.tombstones import read_tombstones


class Problem(Record):
    """Something wrong with a store: the file (relative to the store), what is wrong, what to do, and which
    versions (newest first) it harms."""

    file: str
    reason: str
    remedy: str
    versions: tuple[str, ...]


class VerifyReport(Record):
    """What `verify` read, and what it found wrong; `versions` are newest first, `size_bytes` counts every
    file once."""

    versions: tuple[str, ...]
    atoms: int
    objects: int
    size_bytes: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether everything has the digest that it must have."""
        return not self.problems


class GcReport(Record):
    """What `gc` removed (or would remove): objects by digest, the versions that it forgot, and the bytes that this
    frees."""

    removed: tuple[str, ...]
    freed_bytes: int
    versions: tuple[str, ...] = ()


class Verifier:
    """Reads everything that a version and its ancestors are made of and collects the problems. Segments, and a
    catalogue that versions in a row share, are gone through once."""

    def __init__(self, folder: Path, objects: ObjectFolder, manifests: ManifestFolder) -> None:
        self._folder, self._objects, self._manifests = folder, objects, manifests
        self._sizes: dict[str, int | None] = {}  # of objects that were hashed; None: damaged
        self._reasons: dict[str, DamagedFileError] = {}
        self._records: set[tuple[Place, str]] = set()
        # Of the catalogue that was read last: versions that share one follow each other.
        self._parsed: tuple[str, dict[str, list[tuple[Place, str, str]]]] = "", {}
        self._found: dict[tuple[str, str, str], list[str]] = {}

    def run(self, version: str) -> VerifyReport:
        """Verify `version`, its ancestors, and all other versions, with tags and evaluations. Raises nothing for bad
        bytes: they are in the report."""
        versions: list[str] = []
        gone: frozenset[str] = frozenset()
        with self._noting(version):
            gone = shallow(self._folder)
        for start in (version, *self._manifests.versions()):
            at: str | None = start
            while at is not None and at not in versions:
                if at in gone and not self._manifests.path(at).exists():
                    break
                versions.append(at)
                manifest = self._manifest(at)
                if manifest is not None:
                    self._version(at, manifest)
                at = manifest.parent if manifest is not None else None
        self._names_and_scores()
        return VerifyReport(
            versions=tuple(versions),
            atoms=len(self._records),
            objects=len(self._sizes),
            size_bytes=sum(size for size in self._sizes.values() if size is not None),
            problems=tuple(
                Problem(file=file, reason=reason, remedy=remedy, versions=tuple(harmed))
                for (file, reason, remedy), harmed in self._found.items()
            ),
        )

    def _manifest(self, version: str) -> Manifest | None:
        try:
            return self._manifests.read(version)
        except DamagedFileError as error:
            self._note(error, version)
        except StoreError as error:  # a newer format, or no permission
            self._note(DamagedFileError(self._manifests.path(version), str(error)), version)
        return None

    def _names_and_scores(self) -> None:
        """Tags and evaluations. A tag whose file is damaged harms no version that could be named."""
        tags = TagFolder(self._folder)
        for name in tags.names():
            try:
                tags.read(name)
            except DamagedFileError as error:
                self._note(error, None)
        for version, damage in EvaluationFolder(self._folder).damaged():
            self._note(damage, version)

    def _version(self, version: str, manifest: Manifest) -> None:
        with self._noting(version):
            records = self._catalogue(manifest.catalogue)
            atoms = sum(len(places) for places in records.values())
            with self._noting(version):
                self._intact(manifest.keys)
                read_keys(self._objects, manifest.keys, atoms)
            if manifest.conflicts is not None:
                with self._noting(version):
                    self._intact(manifest.conflicts)
                    read_conflicts(self._objects, manifest.conflicts)
            if manifest.one_adapter is not None:
                with self._noting(version):
                    self._intact(manifest.one_adapter)
                    read_single(self._objects, manifest.one_adapter)
            if manifest.interference is not None:
                with self._noting(version):
                    self._intact(manifest.interference)
                    read_interference(self._objects, manifest.interference)
            if manifest.tombstones is not None:
                with self._noting(version):
                    self._intact(manifest.tombstones)
                    for _ in read_tombstones(self._objects, manifest.tombstones):
                        pass
            for entry in manifest.segments:
                with self._noting(version):
                    self._segment(entry, records.get(entry.sha256, []))
            if records.keys() - {entry.sha256 for entry in manifest.segments}:
                path = self._objects.path(manifest.catalogue)
                raise DamagedFileError(path, "names segments that its manifest does not list")

    def _catalogue(self, digest: str) -> dict[str, list[tuple[Place, str, str]]]:
        """(place, atom id, weights digest) of all atoms by segment."""
        if self._parsed[0] != digest:
            self._intact(digest)
            self._parsed = "", {}  # so that two are never in memory
            records: dict[str, list[tuple[Place, str, str]]] = defaultdict(list)
            for entry in Catalogue(self._objects, digest):
                records[entry.segment].append((entry.place, entry.atom.id, entry.atom.weights_digest))
            self._parsed = digest, records
        return self._parsed[1]

    def _segment(self, entry: SegmentEntry, records: list[tuple[Place, str, str]]) -> None:
        self._intact(entry.sha256)
        if self._sizes[entry.sha256] != entry.size_bytes:
            raise DamagedFileError(self._objects.path(entry.sha256), "has another size than its manifest says")
        new = [record for record in records if (record[0], record[2]) not in self._records]
        view = self._objects.map_unverified(entry.sha256) if new else None
        for place, atom_id, digest in new:
            assert view is not None
            read_record(self._objects, view, place, atom_id, digest)
            self._records.add((place, digest))

    def _intact(self, digest: str) -> None:
        """Hash an object if that was not done; DamagedFileError (again) when its bytes are wrong."""
        if digest not in self._sizes:
            try:
                self._sizes[digest] = len(self._objects.map(digest))
            except DamagedFileError as error:
                self._sizes[digest], self._reasons[digest] = None, error
        if digest in self._reasons:
            raise self._reasons[digest]

    @contextlib.contextmanager
    def _noting(self, version: str) -> Iterator[None]:
        """Put the block's DamagedFileError into the report."""
        try:
            yield
        except DamagedFileError as error:
            self._note(error, version)

    def _note(self, error: DamagedFileError, version: str | None) -> None:
        path = error.path
        file = path.relative_to(self._folder).as_posix() if path.is_relative_to(self._folder) else str(path)
        harmed = self._found.setdefault((file, error.reason, error.remedy), [])
        if version is not None and version not in harmed:
            harmed.append(version)


def collect_garbage(
    folder: Path, objects: ObjectFolder, manifests: ManifestFolder, dry_run: bool = False, keep: int | None = None
) -> GcReport:
    """Remove objects that no manifest on disk reaches, among them segments staged by an interrupted compile,
    and temporary files. The caller holds the lock.

    Every manifest counts, not only HEAD's ancestors, so nothing that any version could need is lost; a
    manifest that cannot be read stops everything (CorruptStoreError), because what it needs is then unknown.
    With `keep`, manifests go first (see `Store.gc`); `shallow` names them before, so that whatever interrupts this,
    a version that is missing is known to be gone on purpose.
    """
    needs = {version: manifests.read(version) for version in manifests.versions()}
    forgotten = _forgotten(folder, needs, keep) if keep is not None else ()
    reached = {digest for version in needs.keys() - set(forgotten) for digest in needs[version].objects()}
    freed, removed = 0, [digest for digest in objects.digests() if digest not in reached]
    if forgotten and not dry_run:
        freed += _forget(folder, manifests, forgotten)
    for digest in removed:
        freed += objects.size(digest) if dry_run else objects.remove(digest)
    if not dry_run:
        for place in (folder, objects.folder, manifests.folder, folder / "tags"):
            freed += remove_temporaries(place)
        for place in (folder / "cache", EvaluationFolder(folder).folder):
            freed += remove_abandoned(place)
    return GcReport(removed=tuple(removed), freed_bytes=freed, versions=tuple(forgotten))


def _forgotten(folder: Path, manifests: Mapping[str, Manifest], keep: int) -> tuple[str, ...]:
    """The versions that `keep` leaves out: neither among the `keep` newest of the current line, nor tagged."""
    kept = set(TagFolder(folder).all().values())
    at: str | None = resolve(folder, "HEAD")
    for _ in range(max(keep, 1)):
        if at is None or at not in manifests:
            break
        kept.add(at)
        at = manifests[at].parent
    return tuple(version for version in manifests if version not in kept)


def _forget(folder: Path, manifests: ManifestFolder, versions: Sequence[str]) -> int:
    """Note versions as gone, then remove their manifests and evaluations; returns the bytes."""
    names = sorted(shallow(folder) | set(versions))
    replace_durably(folder / "shallow", "".join(f"{name}\n" for name in names).encode())
    freed = 0
    for version in versions:
        path = manifests.path(version)
        with writing(path):
            freed += path.stat().st_size
            path.unlink()
        freed += EvaluationFolder(folder).remove(version)
    with writing(manifests.folder):
        fsync_folder(manifests.folder)
    return freed
