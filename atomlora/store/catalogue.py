"""The catalogue: the atoms of one version, in order, as JSON lines `{"atom", "offset", "segment", "size"}`.

An atom's line number is its position, by which the keys refer to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from atomlora.atom import Atom, Record
from atomlora.store.files import DamagedFileError
from atomlora.store.manifest import Digest, canonical_json
from atomlora.store.objects import ObjectFolder
from atomlora.store.segments import Place

_BLOCK = 1 << 22


class Entry(Record):
    """One line: the atom, and where its record stands (offset from the segment's start and size, in
    bytes)."""

    atom: Atom
    segment: Digest
    offset: int
    size: int

    @property
    def place(self) -> Place:
        """Where the atom's record stands."""
        return Place(self.segment, self.offset, self.size)


def write_catalogue(objects: ObjectFolder, entries: Iterable[Entry]) -> str:
    """Write a catalogue durably; returns its digest."""
    return objects.write(canonical_json(entry, f"atom {entry.atom.id[:12]}") + b"\n" for entry in entries)[0]


class Catalogue:
    """A verified catalogue, mapped: the whole file was hashed before anything in it is believed."""

    def __init__(self, objects: ObjectFolder, digest: str) -> None:
        self.path: Path = objects.path(digest)
        self._view = objects.map(digest)

    def __iter__(self) -> Iterator[Entry]:
        return (self.parse(line) for _, line in self.lines())

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(offset, line without its newline) of every line, in order."""
        at, rest = 0, b""
        for start in range(0, len(self._view), _BLOCK):
            *whole, rest = (rest + bytes(self._view[start : start + _BLOCK])).split(b"\n")
            for line in whole:
                yield at, line
                at += len(line) + 1
        if rest:
            raise DamagedFileError(self.path, "ends in the middle of a line")

    def line(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; fewer, or none, when the file has no such place."""
        return bytes(self._view[max(offset, 0) : max(offset, 0) + max(size, 0)])

    def parse(self, line: bytes) -> Entry:
        """An entry from its line; CorruptStoreError when it is none."""
        try:
            return Entry.model_validate_json(line)
        except ValidationError as error:
            raise DamagedFileError(self.path, f"a line is no catalogue entry ({error.errors()[0]['msg']})") from error
