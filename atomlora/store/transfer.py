"""`push` and `pull`: a store's current version, its ancestors, tags and evaluations to an address and from one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from atomlora.atom import Record
from atomlora.errors import StoreError
from atomlora.store.evaluations import EvaluationFolder
from atomlora.store.files import replace_durably, write_addressed
from atomlora.store.manifest import Manifest, ManifestFolder
from atomlora.store.objects import ObjectFolder
from atomlora.store.refs import TagFolder, shallow
from atomlora.store.remote import Remote, require_atomic, take_evaluations, take_tag
from atomlora.store.store import Store
from atomlora.store.writer import StoreWriter

_logger = logging.getLogger(__name__)


class TransferReport(Record):
    """What was moved to make `version` the current one there: objects (and their bytes) and versions that were
    missing."""

    store: str
    url: str
    version: str
    objects: int
    size_bytes: int
    versions: int


def push(path: Path | str, url: str, force: bool = False) -> TransferReport:
    """Bring a store's current version, with all that it came from, to `url`, and make it the current one there.

    What is there already is not sent again, so an interrupted push is resumed by the same call. A tag that is there
    moves only by `force`; a warning tells of one that stays. HEAD is written last, in one step. Raises StoreError where
    the backend cannot do that, where the address holds a version that this store does not come from (unless `force`:
    then that version stays there, by its name), or where the transfer fails; CorruptStoreError before bytes are sent
    that have changed. Two pushes at once are safe, but the later HEAD wins.
    """
    require_atomic(url)
    remote = Remote(url)
    with Store.open(path) as store:
        line = store.log()
        theirs = remote.head()
        if theirs is not None and theirs not in store.versions and not force:
            raise StoreError(
                f"{remote.url}: holds version {theirs[:12]}, which {path} does not come from; pull it first, or "
                "replace it with --force"
            )
        objects = ObjectFolder(store.path / "objects")
        there = remote.sizes("objects")
        sent = size = 0
        for digest in dict.fromkeys(digest for manifest in line for digest in manifest.objects()):
            name = f"objects/{digest[:2]}/{digest}"
            if there.get(name) != objects.size(digest):
                data = objects.map(digest)
                remote.write(name, data)
                sent, size = sent + 1, size + len(data)
        known = remote.sizes("manifests")
        new = [manifest for manifest in reversed(line) if f"manifests/{manifest.version}.json" not in known]
        for manifest in new:
            name = f"manifests/{manifest.version}.json"
            remote.write(name, (store.path / name).read_bytes())
        _push_names(store, remote, line, force)
        remote.write("HEAD", f"{store.version}\n".encode())
        return TransferReport(
            store=str(path), url=remote.url, version=store.version, objects=sent, size_bytes=size, versions=len(new)
        )


def pull(url: str, path: Path | str, force: bool = False) -> TransferReport:
    """Bring the current version at `url`, with all that it came from, into the store at `path` (made if there is
    none), and make it the current one.

    Every file is checked before it gets its name; an interrupted pull is resumed by the same call. A tag that is
    here moves only by `force`; a warning tells of one that stays. Raises StoreError where the store has a version that
    the one at the address does not come from (unless `force`), while a writer is at work, or where the transfer fails;
    CorruptStoreError, naming the file, for changed bytes.
    """
    remote, folder = Remote(url), Path(path)
    theirs = remote.head()
    if theirs is None:
        raise StoreError(f"{remote.url}: there is no store; make one with: atomlora push STORE {remote.url}")
    with StoreWriter(folder) as writer:
        manifests, objects = ManifestFolder(folder / "manifests"), ObjectFolder(folder / "objects")
        gone = _shallow(remote)
        line = _line(remote, theirs, gone)
        mine = writer.head
        if mine is not None and mine.version not in [manifest.version for manifest, _ in line] and not force:
            raise StoreError(
                f"{folder}: its version {mine.version[:12]} is not one that {remote.url} comes from; push it, or put "
                "it aside with --force (it stays, by its name)"
            )
        got = size = 0
        sizes = {segment.sha256: segment.size_bytes for manifest, _ in line for segment in manifest.segments}
        for digest in dict.fromkeys(digest for manifest, _ in line for digest in manifest.objects()):
            place = objects.path(digest)
            if not place.exists() or place.stat().st_size != sizes.get(digest, place.stat().st_size):
                size += remote.fetch_object(digest, folder, place, sizes.get(digest))
                got += 1
        here = set(manifests.versions())
        for manifest, data in reversed(line):
            if manifest.version not in here:
                write_addressed(manifests.folder, [data], manifests.path)
        if gone - shallow(folder):
            _note_shallow(folder, gone)
        _pull_names(remote, folder, {manifest.version for manifest, _ in line}, force)
        replace_durably(folder / "HEAD", f"{theirs}\n".encode())
    return TransferReport(
        store=str(path),
        url=remote.url,
        version=theirs,
        objects=got,
        size_bytes=size,
        versions=sum(manifest.version not in here for manifest, _ in line),
    )


def _push_names(store: Store, remote: Remote, line: Iterable[Manifest], force: bool) -> None:
    """Tags and evaluations of the versions that were pushed, and which of their ancestors are gone on purpose."""
    versions = {manifest.version for manifest in line}
    there = remote.sizes("evaluations")
    scores = EvaluationFolder(store.path)
    for file in (file for version in versions for file in scores.paths(version)):
        if f"evaluations/{file.name}" not in there:
            scores.read(file)
            remote.write(f"evaluations/{file.name}", file.read_bytes())
    _push_tags(store, remote, versions, force)
    if gone := shallow(store.path):
        names = sorted(gone | _shallow(remote))
        remote.write("shallow", "".join(f"{name}\n" for name in names).encode())


def _push_tags(store: Store, remote: Remote, versions: set[str], force: bool) -> None:
    theirs = {name.lower(): name for name in remote.tags()}
    for tag, version in TagFolder(store.path).all().items():
        if version not in versions:
            continue
        taken = theirs.get(tag.lower())
        if taken is None or (force and taken == tag):
            remote.write(f"tags/{tag}", f"{version}\n".encode())
        elif taken != tag:
            _logger.warning(
                "%s: tag %s is not sent, as it differs from tag %s there only in upper and lower case; choose another "
                "name",
                remote.url,
                tag,
                taken,
            )
        elif remote.tag(tag) != version:
            _logger.warning("%s: tag %s stays where it is; move it with --force", remote.url, tag)


def _pull_names(remote: Remote, folder: Path, versions: set[str], force: bool) -> None:
    take_evaluations(remote, EvaluationFolder(folder), versions)
    tags = TagFolder(folder)
    mine = tags.all()
    for tag in remote.tags():
        version = remote.tag(tag)
        if version not in versions or mine.get(tag) == version:
            continue
        if tag in mine and not force:
            _logger.warning("%s: tag %s stays where it is; move it with --force", folder, tag)
        else:
            take_tag(remote, tags, tag, version, force)


def _line(remote: Remote, version: str, gone: frozenset[str]) -> list[tuple[Manifest, bytes]]:
    """The manifests of a version and its ancestors with their bytes, newest first."""
    line = [remote.manifest(version)]
    known = remote.sizes("manifests")
    while (parent := line[-1][0].parent) is not None:
        if parent in gone and f"manifests/{parent}.json" not in known:
            break
        line.append(remote.manifest(parent))
    return line


def _shallow(remote: Remote) -> frozenset[str]:
    data = remote.read("shallow")
    return frozenset() if data is None else frozenset(data.decode("ascii", errors="replace").split())


def _note_shallow(folder: Path, gone: frozenset[str]) -> None:
    names = sorted(shallow(folder) | gone)
    replace_durably(folder / "shallow", "".join(f"{name}\n" for name in names).encode())
