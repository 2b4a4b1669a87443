"""A store opened from an address: read-only, its files fetched when they are first needed into a local cache.

The cache is a folder of its own for each address, laid out like a store. What lies there is checked like everything
else, and fetched again where it is damaged; deleting the folder costs no more than another download.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from pathlib import Path

from atomlora.errors import CorruptStoreError, StoreError
from atomlora.store.evaluations import EvaluationFolder
from atomlora.store.files import DamagedFileError, is_digest, make_folder, replace_durably, write_addressed
from atomlora.store.layout import create_store
from atomlora.store.manifest import ManifestFolder
from atomlora.store.objects import ObjectFolder
from atomlora.store.refs import TagFolder
from atomlora.store.remote import Remote, take_evaluations, take_tag


class RemoteObjects(ObjectFolder):
    """Objects of a remote store: each is fetched whole when it is first mapped, and verified."""

    def __init__(self, folder: Path, remote: Remote) -> None:
        super().__init__(folder)
        self._remote = remote
        self._lock = threading.Lock()
        self._checked: set[str] = set()

    def map_unverified(self, digest: str) -> memoryview:
        with self._lock:
            if digest not in self._checked:
                self._bring(digest)
                self._checked.add(digest)
        return super().map_unverified(digest)

    def size(self, digest: str) -> int:
        return len(self.map_unverified(digest))

    def _bring(self, digest: str) -> None:
        """Have the object here, whole."""
        try:
            self.check(digest, super().map_unverified(digest))
        except DamagedFileError:  # missing, or rotten in the cache
            make_folder(self.folder)
            self._remote.fetch_object(digest, self.folder, self.path(digest))


def mirror(url: str, cache: Path) -> tuple[Path, RemoteObjects]:
    """The local folder of the store at `url` below `cache`, with HEAD, manifests, tags and evaluations as they are
    there now; and its objects. StoreError where the address cannot be read or holds no store."""
    remote = Remote(url)
    folder = cache / hashlib.sha256(remote.url.encode()).hexdigest()[:32]
    head = remote.head()
    if head is None:
        raise StoreError(f"{remote.url}: there is no store; make one with: atomlora push STORE {remote.url}")
    create_store(folder)
    manifests = ManifestFolder(folder / "manifests")
    for name in remote.sizes("manifests"):
        version = name.removeprefix("manifests/").removesuffix(".json")
        if is_digest(version) and not _whole(manifests, version):
            write_addressed(manifests.folder, [remote.manifest(version)[1]], manifests.path)
    names = TagFolder(folder)
    theirs = remote.tags()
    for tag in names.names():
        if tag not in theirs:
            with contextlib.suppress(StoreError):  # another process, which opens the same address, was faster
                names.delete(tag)
    versions = set(manifests.versions())
    for tag in theirs:
        if (version := remote.tag(tag)) in versions:
            take_tag(remote, names, tag, version, force=True)
    take_evaluations(remote, EvaluationFolder(folder), versions)
    if (gone := remote.read("shallow")) is not None:
        replace_durably(folder / "shallow", gone)
    replace_durably(folder / "HEAD", f"{head}\n".encode())
    return folder, RemoteObjects(folder / "objects", remote)


def _whole(manifests: ManifestFolder, version: str) -> bool:
    try:
        manifests.read(version)
    except CorruptStoreError:  # missing, or rotten in the cache
        return False
    return True
