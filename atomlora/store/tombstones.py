"""Tombstones: which atoms a version left out that the version before it had.

An object of JSON lines `{"id", "sources"}`: enough to say what became of an atom, and nothing of its text, so that
`gc --keep` really forgets what was removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from atomlora.atom import Record
from atomlora.store.files import DamagedFileError
from atomlora.store.manifest import Digest, canonical_json
from atomlora.store.objects import ObjectFolder


class Tombstone(Record):
    """An atom that is gone, and the documents that it had come from."""

    id: Digest
    sources: tuple[str, ...]


def write_tombstones(objects: ObjectFolder, stones: Iterable[Tombstone]) -> str:
    """Write tombstones durably; returns the digest."""
    return objects.write(canonical_json(stone, f"atom {stone.id[:12]}") + b"\n" for stone in stones)[0]


def read_tombstones(objects: ObjectFolder, digest: str) -> Iterator[Tombstone]:
    """The tombstones of an object, hashed in whole."""
    path = objects.path(digest)
    for line in bytes(objects.map(digest)).split(b"\n")[:-1]:
        try:
            yield Tombstone.model_validate_json(line)
        except ValidationError as error:
            raise DamagedFileError(path, f"a line is no tombstone ({error.errors()[0]['msg']})") from error
