"""Content-addressed files: `objects/ab/abcd…`, each named by the sha256 of its bytes, written once, never
changed."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from atomlora.store.files import (
    DamagedFileError,
    hash_buffer,
    is_digest,
    make_folder,
    reading,
    require_digest,
    write_addressed,
    writing,
)


class ObjectFolder:
    """The `objects/` folder of a store. Reads are verified, or (`map_unverified`) leave that to the
    caller."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Where the object named `digest` lies; StoreError when that is not a sha256 in hex."""
        require_digest(digest)
        return self.folder / digest[:2] / digest

    def write(self, chunks: Iterable[bytes | memoryview]) -> tuple[str, int]:
        """Write an object durably; returns (sha256 hex, size in bytes). Raises StoreError, leaving nothing
        behind."""
        make_folder(self.folder)
        return write_addressed(self.folder, chunks, self.path)

    def map_unverified(self, digest: str) -> memoryview:
        """The object's bytes by mmap, read-only, unread: the caller checks what it uses against a digest."""
        path = self.path(digest)
        with reading(path):
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(handle).st_size == 0:  # an empty file cannot be mapped
                    return memoryview(b"")
                return memoryview(mmap.mmap(handle, 0, access=mmap.ACCESS_READ))
            finally:
                os.close(handle)

    def map(self, digest: str) -> memoryview:
        """The object's bytes by mmap after hashing the whole of it; CorruptStoreError when they are not
        `digest`'s."""
        view = self.map_unverified(digest)
        self.check(digest, view)
        return view

    def check(self, digest: str, view: memoryview) -> None:
        """Hash a mapped object in whole; CorruptStoreError when its bytes are not `digest`'s."""
        found = hash_buffer(view)
        if found != digest:
            raise DamagedFileError(self.path(digest), f"its sha256 is {found[:12]}…, so its bytes have changed")

    def digests(self) -> Iterator[str]:
        """The names of all objects on disk, sorted, whether a manifest reaches them or not."""
        if not self.folder.is_dir():
            return
        with reading(self.folder):
            for prefix in sorted(entry.name for entry in os.scandir(self.folder) if len(entry.name) == 2):
                names = sorted(os.listdir(self.folder / prefix)) if (self.folder / prefix).is_dir() else []
                yield from (name for name in names if is_digest(name) and name[:2] == prefix)

    def size(self, digest: str) -> int:
        """Size of the object in bytes."""
        with reading(self.path(digest)):
            return os.stat(self.path(digest)).st_size

    def remove(self, digest: str) -> int:
        """Remove an object; returns its size in bytes. Readers that have it mapped keep their bytes."""
        path = self.path(digest)
        with writing(path):
            size = os.stat(path).st_size
            os.unlink(path)
        return size
