"""The catalogue: the atoms of one version, in order, as JSON lines `{"atom", "dtype", "offset",
"segment", "size"}`.

An atom's line number is its position, by which the keys refer to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from atomlora.atom import Atom, Record
from atomlora.store.files import DamagedFileError, release_pages
from atomlora.store.manifest import Digest, canonical_json
from atomlora.store.objects import ObjectFolder
from atomlora.store.records import RecordType
from atomlora.store.segments import Place

_BLOCK = 1 << 20


class Entry(Record):
    """One line: the atom, where its record stands (offset from the segment's start and size, in bytes), and how
    it is stored (format 1 had bf16 only and did not say)."""

    atom: Atom
    segment: Digest
    offset: int
    size: int
    dtype: RecordType = "bf16"

    @property
    def place(self) -> Place:
        """Where the atom's record stands."""
        return Place(self.segment, self.offset, self.size, self.dtype)

    @property
    def sources(self) -> tuple[str, ...]:
        """The documents in which the atom's text stands, each once."""
        return tuple(dict.fromkeys(place.source for place in self.atom.provenances))


def write_catalogue(objects: ObjectFolder, entries: Iterable[Entry]) -> str:
    """Write a catalogue durably; returns its digest."""
    return objects.write(canonical_json(entry, f"atom {entry.atom.id[:12]}") + b"\n" for entry in entries)[0]


class Catalogue:
    """A catalogue, mapped. Going through its lines hashes the whole file before anything in it is believed; a
    single line is checked against the sha256 that `CatalogueIndex` took of it when it went through all of them.
    Pages are let go as they were read, so that memory does not grow with the file."""

    def __init__(self, objects: ObjectFolder, digest: str) -> None:
        self.path: Path = objects.path(digest)
        self._objects, self._digest = objects, digest
        self._view = objects.map_unverified(digest)
        self._checked = False

    def __iter__(self) -> Iterator[Entry]:
        return (self.parse(line) for _, line in self.lines())

    def check(self) -> None:
        """Hash the file, once; CorruptStoreError when its bytes have changed."""
        if not self._checked:
            self._objects.check(self._digest, self._view)
            self._checked = True

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(offset, line without its newline) of every line, in order."""
        self.check()
        at, rest = 0, b""
        for start in range(0, len(self._view), _BLOCK):
            *whole, rest = (rest + bytes(self._view[start : start + _BLOCK])).split(b"\n")
            release_pages(self._view, start, _BLOCK)
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
