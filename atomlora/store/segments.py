"""Segments: many trained atoms in one safetensors file.

Tensor `__atoms__` (U8) comes first: JSON lines, one atom each, padded with newlines so that records stay
aligned. Then one BF16 tensor of shape (n,) per atom, named by the atom's id, in the order of the lines. So a
segment alone, committed or not, tells everything that a compile must know to go on after an interruption.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from atomlora.atom import Atom
from atomlora.errors import CorruptStoreError, StoreError
from atomlora.store import tensors
from atomlora.store.files import DamagedFileError, is_digest
from atomlora.store.manifest import canonical_json
from atomlora.store.objects import ObjectFolder

ATOMS = "__atoms__"
_METADATA = {"format": "atomlora.segment", "format_version": "1"}


class Place(NamedTuple):
    """Where an atom's record stands: segment (sha256), offset from the file's start and size, both in
    bytes."""

    segment: str
    offset: int
    size: int


def weights_digest(record: np.ndarray) -> str:
    """sha256 (hex) of a flat bfloat16 record given as uint16 (n,), over its little-endian bytes."""
    return hashlib.sha256(_record_bytes(record)).hexdigest()


def write_segment(
    objects: ObjectFolder, items: Sequence[tuple[Atom, np.ndarray]]
) -> tuple[str, list[tuple[Atom, Place]]]:
    """Write atoms with their records (uint16 (n,), n > 0) durably as one segment; its digest and each atom's
    place.

    Raises StoreError when there are none, an id comes twice or is no digest, a record is not 1-D uint16 or
    not the one that `weights_digest` names, or the disk fails (then no file is left).
    """
    if not items:
        raise StoreError("a segment needs at least one atom")
    seen: set[str] = set()
    for atom, record in items:
        if not is_digest(atom.id) or atom.id in seen:
            raise StoreError(f"atom {atom.id[:80]!r}: ids must be sha256 digests, each once per segment")
        seen.add(atom.id)
        if record.dtype != np.uint16 or record.ndim != 1 or not record.size:
            raise StoreError(
                f"atom {atom.id[:12]}: its record must be uint16 of shape (n,), not {record.dtype} {record.shape}"
            )
        if weights_digest(record) != atom.weights_digest:
            raise StoreError(f"atom {atom.id[:12]}: weights_digest does not name the record that came with it")
    lines = b"".join(canonical_json(atom, f"atom {atom.id[:12]}") + b"\n" for atom, _ in items)
    lines += b"\n" * (-len(lines) % 64)
    layout: list[tuple[str, str, tuple[int, ...]]] = [(ATOMS, "U8", (len(lines),))]
    layout += [(atom.id, "BF16", (record.size,)) for atom, record in items]
    head, starts = tensors.frame(layout, _METADATA)
    digest, _ = objects.write(_chunks(head + lines, items))
    return digest, [
        (atom, Place(digest, start, record.size * 2)) for (atom, record), start in zip(items, starts[1:], strict=True)
    ]


def read_segment(objects: ObjectFolder, digest: str) -> list[tuple[Atom, Place]] | None:
    """The atoms of a segment and their places, after hashing the whole file; None when the object is no
    segment.

    Raises CorruptStoreError when the bytes are not those that `digest` names, or contradict each other.
    """
    view, path = objects.map(digest), objects.path(digest)
    try:
        found, metadata = tensors.parse(view, path)
    except CorruptStoreError:  # the bytes are as they were written, so this is a catalogue
        return None
    if metadata.get("format") != _METADATA["format"]:
        return None
    if metadata.get("format_version") != _METADATA["format_version"]:
        raise StoreError(
            f"{path}: a segment of format {metadata.get('format_version')!r}, which this version of atomlora "
            "does not know; upgrade atomlora"
        )
    names = [name for name in found if name != ATOMS]
    if ATOMS not in found or any(found[name].dtype != "BF16" for name in names):
        raise DamagedFileError(path, "a segment without its atoms' descriptions")
    text = bytes(view[found[ATOMS].start : found[ATOMS].stop])
    try:
        atoms = [Atom.model_validate_json(line) for line in text.split(b"\n") if line]
    except ValidationError as error:
        raise DamagedFileError(path, f"an atom's description cannot be read ({error.errors()[0]['msg']})") from error
    if [atom.id for atom in atoms] != names:
        raise DamagedFileError(path, "its descriptions and its records are of different atoms")
    return [(atom, Place(digest, found[atom.id].start, found[atom.id].stop - found[atom.id].start)) for atom in atoms]


def read_record(objects: ObjectFolder, view: memoryview, place: Place, atom_id: str, digest: str) -> np.ndarray:
    """A read-only uint16 (n,) view of an atom's record in its mapped segment, checked against its weights
    digest."""
    path = objects.path(place.segment)
    if place.offset < 0 or place.size <= 0 or place.size % 2 or place.offset + place.size > len(view):
        raise DamagedFileError(path, f"has {len(view)} bytes, too few for atom {atom_id[:12]}")
    part = view[place.offset : place.offset + place.size]
    if hashlib.sha256(part).hexdigest() != digest:
        raise DamagedFileError(path, f"the weights of atom {atom_id[:12]} have changed")
    return np.frombuffer(part, dtype="<u2")


def _record_bytes(record: np.ndarray) -> bytes | memoryview:
    return np.ascontiguousarray(record, dtype="<u2").data.cast("B")


def _chunks(head: bytes, items: Sequence[tuple[Atom, np.ndarray]]) -> Iterator[bytes | memoryview]:
    yield head
    for _, record in items:
        yield _record_bytes(record)
