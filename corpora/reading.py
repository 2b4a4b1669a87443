"""From paths to documents: which files, under which names, and why a file was left out."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from atomlora.corpora.dates import moment_date, named_date
from atomlora.corpora.documents import Document, SkippedFile
from atomlora.corpora.readers import FORMATS, reader_for
from atomlora.errors import InputError

MAX_BYTES = 20_000_000


def read_corpus(sources: Sequence[Path | str], *, max_bytes: int = MAX_BYTES) -> Iterator[Document | SkippedFile]:
    """All documents of `sources` (files and folders), each a `Document` or a `SkippedFile` with the reason.

    Folders are walked in sorted order. Hidden files and folders are passed over, as are links that lead out
    of the folder. `source` is the path relative to the given folder in POSIX form (for a file its name);
    where several roots hold the same name, the root's name goes in front. Files above `max_bytes` bytes are
    skipped unread.

    Raises InputError at once for a source that does not exist, and at the end when nothing was usable.
    """
    roots = [Path(source) for source in sources]
    if not roots:
        raise InputError("No documents were named: give at least one file or folder")
    for root in roots:
        if not root.exists():
            raise InputError(f"{root}: no such file or folder; check the path")
    return _read(roots, max_bytes)


def _read(roots: list[Path], max_bytes: int) -> Iterator[Document | SkippedFile]:
    usable, reasons = 0, list[SkippedFile]()
    for source, path in _named_files(roots):
        for found in _read_file(path, source, max_bytes):
            if isinstance(found, Document):
                usable += 1
            elif len(reasons) < 3:
                reasons.append(found)
            yield found
    if not usable:
        names = ", ".join(str(root) for root in roots)
        skipped = "; ".join(f"{one.source}: {one.reason}" for one in reasons)
        raise InputError(
            f"{names}: holds no document that can be used; formats read are {FORMATS}"
            + (f" (skipped: {skipped})" if skipped else "")
        )


def _named_files(roots: list[Path]) -> list[tuple[str, Path]]:
    """`(source, path)` in order; a file reached from two roots counts once."""
    found: list[tuple[Path, str, Path]] = []
    seen: set[Path] = set()
    for root in roots:
        for name, path in _files(root):
            real = path.resolve()
            if real not in seen:
                seen.add(real)
                found.append((root, name, path))
    counts = Counter(name for _, name, _ in found)
    named: list[tuple[str, Path]] = []
    taken: Counter[str] = Counter()
    for root, name, path in found:
        if counts[name] > 1:
            folder = root if root.is_dir() else root.parent
            name = f"{folder.resolve().name}/{name}"
        taken[name] += 1
        named.append((name if taken[name] == 1 else f"{name}~{taken[name]}", path))
    return named


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    if not root.is_dir():
        yield root.name, root
        return
    boundary = root.resolve()
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(names):
            path = Path(folder) / name
            if name.startswith("."):
                continue
            if path.is_symlink():
                try:
                    inside = path.resolve(strict=True).is_relative_to(boundary)
                except (OSError, RuntimeError):  # dangling, or a loop
                    continue
                if not inside:
                    continue
            yield path.relative_to(root).as_posix(), path


def _read_still(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file that nobody wrote to meanwhile: spans and digest must be of one state of it. Never more than
    one byte above `max_bytes` is read, however the file grows."""
    for _ in range(3):
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            data = file.read(max_bytes + 1)
        after = path.stat()
        same = (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino)
        if same and len(data) == before.st_size:
            return data
    raise InputError("changes while it is read: wait until it is complete, and compile again")


def _read_file(path: Path, source: str, max_bytes: int) -> Iterator[Document | SkippedFile]:
    """The documents of one file; whatever goes wrong becomes a reason."""
    if any("\ud800" <= character <= "\udfff" for character in source):
        safe = source.encode("utf-8", "backslashreplace").decode("ascii", "replace")
        yield SkippedFile(source=safe, reason="has a name that is not valid UTF-8: rename it")
        return
    reader = reader_for(path.name)
    if reader is None:
        yield SkippedFile(source=source, reason=f"is of a format that is not read; convert it to one of {FORMATS}")
        return
    try:
        if not path.is_file():
            raise InputError("is not an ordinary file: leave it out")
        found_stat = path.stat()
        size = found_stat.st_size
        if size > max_bytes:
            raise InputError(f"is too large ({size:,} bytes, limit {max_bytes:,}): split it")
        data = _read_still(path, max_bytes)
        if not data.strip():
            raise InputError("is empty: fill it or leave it out")
        documents = list(reader(data, source))
    except InputError as error:
        yield SkippedFile(source=source, reason=str(error))
    except OSError as error:
        yield SkippedFile(source=source, reason=f"cannot be read ({error.strerror or error}): check its permissions")
    except Exception as error:  # the readers' libraries raise all kinds of errors on damaged files
        reason = f"cannot be read ({type(error).__name__}: {error}): it may be damaged; save it again"
        yield SkippedFile(source=source, reason=reason)
    else:
        for found in documents:
            if isinstance(found, Document) and not any(character.isalnum() for character in found.text):
                found = SkippedFile(source=found.source, reason="holds no words: fill it or leave it out")
            yield _dated(found, found_stat.st_mtime) if isinstance(found, Document) else found


def _dated(document: Document, modified: float) -> Document:
    """The document with its date: what it says, else its title or file name, else what its file carries."""
    if document.date_origin == "document":
        return document
    named = named_date(document.title, document.source)
    if named is not None:
        return document.model_copy(update={"date": named, "date_origin": "name"})
    if document.date is not None:
        return document
    moment = moment_date(datetime.fromtimestamp(modified, UTC))
    return document.model_copy(update={"date": moment, "date_origin": "file"})
