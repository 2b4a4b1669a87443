"""Durable writes and honest errors: the only module of the store that changes bytes on disk under their final
name.

Order of a write: temporary file beside the target, write, fsync, rename, fsync of the folder. Whatever fails,
the target keeps its old bytes (or none), the temporary file is removed, and the caller sees a StoreError with
the path.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from atomlora.errors import CorruptStoreError, StoreError

TEMPORARY = ".tmp-"
REMEDY = "restore it from a backup or compile again into a new folder"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 22
_ABANDONED_SECONDS = 3600.0


def is_digest(text: str) -> bool:
    """Whether `text` is a sha256 in lower-case hex: the only thing that ever becomes part of a path."""
    return _DIGEST.fullmatch(text) is not None


def require_digest(text: str) -> str:
    """`text` itself; StoreError when it is not a sha256 in hex (so no name from outside can leave the
    folder)."""
    if not is_digest(text):
        raise StoreError(f"{text[:80]!r} is not a sha256 digest (64 lower-case hex characters)")
    return text


class DamagedFileError(CorruptStoreError):
    """A CorruptStoreError that can be taken apart: the file at fault, what is wrong with it, and what to
    do."""

    def __init__(self, path: Path, reason: str, remedy: str = REMEDY) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path, self.reason, self.remedy = path, reason, remedy


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a StoreError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space there and run the same command again; finished work is kept"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "choose a folder that you may write to"
        else:
            remedy = "check the disk and run the same command again; finished work is kept"
        raise StoreError(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a CorruptStoreError (missing, unreadable disk) or StoreError
    (permission)."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedFileError(path, "the file is missing") from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise StoreError(f"{path}: cannot be read ({error.strerror}); check permissions and limits") from error
        raise DamagedFileError(path, f"cannot be read ({error.strerror or error})") from error


def make_folder(path: Path) -> None:
    """Create `path` if it is absent, durably (its parent is fsynced); StoreError where that fails."""
    with writing(path):
        try:
            os.mkdir(path)
        except FileExistsError:
            if not path.is_dir():
                raise
        else:
            try:
                fsync_folder(path.parent)
            except OSError:
                # Else the next attempt would find the folder and take its name for durable.
                with contextlib.suppress(OSError):
                    os.rmdir(path)
                raise


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable. A rename is on disk only after this."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot do this for folders
            raise
    finally:
        os.close(handle)


def write_addressed(
    folder: Path, chunks: Iterable[bytes | memoryview], place: Callable[[str], Path]
) -> tuple[str, int]:
    """Write `chunks` durably under the name that `place(sha256 hex)` gives; returns (sha256 hex, size in
    bytes).

    The temporary file lies in `folder`, which must be on the same file system. A file that is already there
    is replaced: its bytes are the same, unless they rotted, and then this mends it.
    """
    with _temporary(folder) as (temporary, handle), writing(folder):
        hasher, size = hashlib.sha256(), 0
        for chunk in chunks:
            hasher.update(chunk)
            size += _write_all(handle, chunk)
        os.fsync(handle)
        digest = hasher.hexdigest()
        target = place(digest)
        make_folder(target.parent)
        with writing(target):
            os.rename(temporary, target)
            fsync_folder(target.parent)
    return digest, size


def replace_durably(path: Path, data: bytes) -> None:
    """Put `data` under `path` in one step: temporary file, fsync, os.replace, fsync of the folder."""
    with _temporary(path.parent) as (temporary, handle), writing(path):
        _write_all(handle, data)
        os.fsync(handle)
        os.replace(temporary, path)
        fsync_folder(path.parent)


def remove_temporaries(folder: Path) -> int:
    """Remove what a killed writer left in `folder`; only the holder of the lock may call this. Returns the
    bytes."""
    freed = 0
    for path in folder.glob(f"{TEMPORARY}*"):
        with writing(path):
            freed += path.stat().st_size
            os.unlink(path)
    return freed


def remove_abandoned(folder: Path) -> int:
    """Remove temporary files of those who write to `folder` without the lock (caches, evaluations) that are too old
    to be still written. Returns the bytes."""
    freed = 0
    for path in folder.glob(f"{TEMPORARY}*"):
        # A file that is gone since it was listed has got its name.
        with writing(path), contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if time.time() - status.st_mtime > _ABANDONED_SECONDS:
                os.unlink(path)
                freed += status.st_size
    return freed


def hash_buffer(data: bytes | memoryview) -> str:
    """sha256 (hex) of a buffer, in pieces whose pages are let go, so that a mapped file never is in memory as a
    whole."""
    hasher, view = hashlib.sha256(), memoryview(data)
    for start in range(0, len(view), _CHUNK):
        hasher.update(view[start : start + _CHUNK])
        release_pages(view, start, _CHUNK)
    return hasher.hexdigest()


def hash_file(path: Path) -> str:
    """sha256 (hex) of a file, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def release_pages(view: memoryview, start: int, size: int) -> None:
    """Take a part of a whole mapped file (`start` a multiple of the page size) out of this process's memory; the
    next access reads it again. Nothing happens to a view of anything else."""
    mapped = view.obj
    if isinstance(mapped, mmap.mmap) and len(view) == len(mapped) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED, start, min(size, len(view) - start))


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[tuple[Path, int]]:
    """A fresh open file in `folder`: (path, descriptor). Closed at the end, and removed unless it was
    renamed."""
    path = folder / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
    with writing(path.parent):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        yield path, handle
    finally:
        # The bytes were fsynced before the rename, so what close or unlink may still say changes nothing.
        with contextlib.suppress(OSError):
            os.close(handle)
        with contextlib.suppress(OSError):
            os.unlink(path)


def _write_all(handle: int, data: bytes | memoryview) -> int:
    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    size = len(view)
    while view:
        view = view[os.write(handle, view[: 1 << 30]) :]
    return size
