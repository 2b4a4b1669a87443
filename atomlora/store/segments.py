"""Segments: many trained atoms in one safetensors file.

Tensor `__atoms__` (U8) comes first: JSON lines, one atom each, padded with newlines so that records stay
aligned. Then one tensor per atom, named by the atom's id, in the order of the lines: BF16 (n,) for a bf16 record,
U8 (m,) for an int8 one (see `atomlora.store.records`). So a segment alone, committed or not, tells everything that a
compile must know to go on after an interruption.
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
from atomlora.store.records import RecordType, as_bytes, from_bytes, record_type, weights_digest

ATOMS = "__atoms__"
_FORMAT = "atomlora.segment"
# Format 2 may hold int8 records; a segment of bf16 only is still written as format 1, byte for byte.
_FORMATS: dict[str, frozenset[str]] = {"1": frozenset({"BF16"}), "2": frozenset({"BF16", "U8"})}
_TENSORS: dict[RecordType, str] = {"bf16": "BF16", "int8": "U8"}
_TYPES: dict[str, RecordType] = {tensor: kind for kind, tensor in _TENSORS.items()}


class Place(NamedTuple):
    """Where an atom's record stands: segment (sha256), offset from the file's start and size, both in
    bytes, and what is stored there."""

    segment: str
    offset: int
    size: int
    dtype: RecordType = "bf16"


def write_segment(
    objects: ObjectFolder, items: Sequence[tuple[Atom, np.ndarray]]
) -> tuple[str, list[tuple[Atom, Place]]]:
    """Write atoms with their flat records (see `atomlora.store.records`) durably as one segment; its digest and
    each atom's place.

    Raises StoreError when there are none, an id comes twice or is no digest, a record is none or not the one that
    `weights_digest` names, or the disk fails (then no file is left).
    """
    if not items:
        raise StoreError("a segment needs at least one atom")
    seen: set[str] = set()
    kinds: list[RecordType] = []
    for atom, record in items:
        if not is_digest(atom.id) or atom.id in seen:
            raise StoreError(f"atom {atom.id[:80]!r}: ids must be sha256 digests, each once per segment")
        seen.add(atom.id)
        try:
            kinds.append(record_type(record))
        except StoreError as error:
            raise StoreError(f"atom {atom.id[:12]}: {error}") from error
        if weights_digest(record) != atom.weights_digest:
            raise StoreError(f"atom {atom.id[:12]}: weights_digest does not name the record that came with it")
    lines = b"".join(canonical_json(atom, f"atom {atom.id[:12]}") + b"\n" for atom, _ in items)
    lines += b"\n" * (-len(lines) % 64)
    layout: list[tuple[str, str, tuple[int, ...]]] = [(ATOMS, "U8", (len(lines),))]
    layout += [(atom.id, _TENSORS[kind], (record.size,)) for (atom, record), kind in zip(items, kinds, strict=True)]
    metadata = {"format": _FORMAT, "format_version": "2" if "int8" in kinds else "1"}
    head, starts = tensors.frame(layout, metadata)
    digest, _ = objects.write(_chunks(head + lines, items))
    return digest, [
        (atom, Place(digest, start, record.nbytes, kind))
        for (atom, record), kind, start in zip(items, kinds, starts[1:], strict=True)
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
    if metadata.get("format") != _FORMAT:
        return None
    allowed = _FORMATS.get(metadata.get("format_version", ""))
    if allowed is None:
        raise StoreError(
            f"{path}: a segment of format {metadata.get('format_version')!r}, which this version of atomlora "
            "does not know; upgrade atomlora"
        )
    names = [name for name in found if name != ATOMS]
    if ATOMS not in found or any(found[name].dtype not in allowed for name in names):
        raise DamagedFileError(path, "a segment without its atoms' descriptions")
    text = bytes(view[found[ATOMS].start : found[ATOMS].stop])
    try:
        atoms = [Atom.model_validate_json(line) for line in text.split(b"\n") if line]
    except ValidationError as error:
        raise DamagedFileError(path, f"an atom's description cannot be read ({error.errors()[0]['msg']})") from error
    if [atom.id for atom in atoms] != names:
        raise DamagedFileError(path, "its descriptions and its records are of different atoms")
    return [
        (atom, Place(digest, one.start, one.stop - one.start, _TYPES[one.dtype]))
        for atom, one in ((atom, found[atom.id]) for atom in atoms)
    ]


def read_record(objects: ObjectFolder, view: memoryview, place: Place, atom_id: str, digest: str) -> np.ndarray:
    """A read-only view of an atom's flat record in its mapped segment, checked against its weights digest."""
    path = objects.path(place.segment)
    odd = place.dtype == "bf16" and place.size % 2
    if place.offset < 0 or place.size <= 0 or odd or place.offset + place.size > len(view):
        raise DamagedFileError(path, f"has {len(view)} bytes, too few for atom {atom_id[:12]}")
    part = view[place.offset : place.offset + place.size]
    if hashlib.sha256(part).hexdigest() != digest:
        raise DamagedFileError(path, f"the weights of atom {atom_id[:12]} have changed")
    return from_bytes(part, place.dtype)


def _chunks(head: bytes, items: Sequence[tuple[Atom, np.ndarray]]) -> Iterator[bytes | memoryview]:
    yield head
    for _, record in items:
        yield as_bytes(record)
