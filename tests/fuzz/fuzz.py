"""Coverage-guided fuzzing (atheris) of everything that reads bytes from outside: `make fuzz [SECONDS=60]`.

    python tests/fuzz/fuzz.py TARGET [-max_total_time=60] [CORPUS…]

TARGET is segment, catalogue, manifest, evaluation, cache, document or questions. Anything raised but the errors that
are meant is a find; atheris writes the input that led there to a file `crash-…` and exits with 77.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["atomlora"]):
    from atomlora.corpora.reading import MAX_BYTES, _read_file
    from atomlora.errors import AtomLoraError
    from atomlora.questions.files import load_question_file
    from atomlora.questions.structured import parse_reply, salvage_reply
    from atomlora.router.cache import read_cache
    from atomlora.store import EvaluationFolder
    from atomlora.store.catalogue import Catalogue, write_catalogue
    from atomlora.store.files import hash_buffer
    from atomlora.store.keys import read_keys
    from atomlora.store.manifest import parse_manifest
    from atomlora.store.objects import ObjectFolder
    from atomlora.store.segments import read_segment
    from atomlora.store.tombstones import read_tombstones

SUFFIXES = (".txt", ".md", ".rst", ".html", ".pdf", ".docx", ".py", ".c", ".jsonl")
FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))


def stored(data: bytes) -> tuple[ObjectFolder, str]:
    """The bytes as an object whose digest is right, so that only their contents are at fault."""
    objects, digest = ObjectFolder(FOLDER / "objects"), hash_buffer(data)
    path = objects.path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return objects, digest


def segment(data: bytes) -> None:
    objects, digest = stored(data)
    for read in (lambda: read_segment(objects, digest), lambda: read_keys(objects, digest, 3)):
        with contextlib.suppress(AtomLoraError):
            read()
    objects.path(digest).unlink()


def catalogue(data: bytes) -> None:
    objects, digest = stored(data)
    with contextlib.suppress(AtomLoraError):
        entries = list(Catalogue(objects, digest))
        assert write_catalogue(objects, entries)
    with contextlib.suppress(AtomLoraError):
        list(read_tombstones(objects, digest))
    objects.path(digest).unlink(missing_ok=True)


def manifest(data: bytes) -> None:
    with contextlib.suppress(AtomLoraError):
        assert parse_manifest(data, Path("file")).version == hash_buffer(data)


def evaluation(data: bytes) -> None:
    folder = EvaluationFolder(FOLDER)
    folder.take(data, "0" * 64, hash_buffer(data))
    for path in folder.paths():
        with contextlib.suppress(AtomLoraError):
            folder.read(path)
        path.unlink()


def cache(data: bytes) -> None:
    path = FOLDER / "cache"
    path.write_bytes(data)
    found = read_cache(path, "")
    assert found is None or all(array.nbytes <= len(data) for array in found.values())


def document(data: bytes) -> None:
    path = FOLDER / f"file{SUFFIXES[data[0] % len(SUFFIXES)] if data else '.txt'}"
    path.write_bytes(data[1:])
    list(_read_file(path, path.name, MAX_BYTES))


def questions(data: bytes) -> None:
    """A question file, and a reply of a model."""
    path = FOLDER / "questions.jsonl"
    path.write_bytes(data)
    with contextlib.suppress(AtomLoraError):
        load_question_file(path)
    text = data.decode(errors="replace")
    parse_reply(text)
    salvage_reply(text)


TARGETS = {one.__name__: one for one in (segment, catalogue, manifest, evaluation, cache, document, questions)}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: fuzz.py {'|'.join(TARGETS)} [libFuzzer options]")
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
