"""An atom's weight record as bytes on disk: bfloat16 as trained, or int8 with a float32 scale per rank row.

bf16: A (r, d_in) then Bt (r, d_out) of every target in turn (see `atomlora.atom.split_record`), 2 bytes an element.
int8: the same matrices in the same order, 1 byte an element, then for every target the scales of A's r rows and of
Bt's r rows, float32 little-endian. A row is `scale * int8`, with scale = max |row| / 127: symmetric absolute-maximum
quantisation by row, as LLM.int8() does it (arXiv 2208.07339). Either is handled as a flat array: uint16 (n,) is bf16,
uint8 (m,) is int8.
"""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

import numpy as np

from atomlora.atom import Target, record_size, split_record
from atomlora.errors import StoreError

RecordType = Literal["bf16", "int8"]

_ARRAYS: dict[RecordType, np.dtype[np.generic]] = {"bf16": np.dtype("<u2"), "int8": np.dtype("u1")}
_LIMIT = 127


class QuantisedFactors(NamedTuple):
    """One target's factors: A int8 (r, d_in) and Bt int8 (r, d_out), with float32 (r,) scales of their rows."""

    A: np.ndarray
    A_scales: np.ndarray
    Bt: np.ndarray
    Bt_scales: np.ndarray


def record_type(record: np.ndarray) -> RecordType:
    """What a flat record array is by its dtype; StoreError for an array that is no record."""
    for name, dtype in _ARRAYS.items():
        if record.dtype == dtype and record.ndim == 1 and record.size:
            return name
    raise StoreError(f"a record must be uint16 (n,) for bf16 or uint8 (m,) for int8, not {record.dtype} {record.shape}")


def size_bytes(rank: int, targets: tuple[Target, ...], kind: RecordType) -> int:
    """Bytes of a record of `rank`."""
    elements = record_size(rank, targets)
    return 2 * elements if kind == "bf16" else elements + 8 * rank * len(targets)


def as_bytes(record: np.ndarray) -> memoryview:
    """The record's bytes as they stand on disk."""
    return np.ascontiguousarray(record, dtype=_ARRAYS[record_type(record)]).data.cast("B")


def from_bytes(data: memoryview, kind: RecordType) -> np.ndarray:
    """The flat record array over bytes from disk, without a copy."""
    return np.frombuffer(data, dtype=_ARRAYS[kind])


def weights_digest(record: np.ndarray) -> str:
    """sha256 (hex) of a flat record, over its bytes on disk."""
    return hashlib.sha256(as_bytes(record)).hexdigest()


def pack(record: np.ndarray, rank: int, targets: tuple[Target, ...], kind: RecordType) -> np.ndarray:
    """A record in the wanted type; itself where it is of that type. Raises StoreError for weights that are not
    finite."""
    have = record_type(record)
    if have == kind:
        return record
    if have == "int8":
        return unpack(record, rank, targets)
    values = (record.astype(np.uint32) << 16).view(np.float32)
    if not np.isfinite(values).all():
        raise StoreError("weights that are not finite cannot be stored as int8; store them as bf16 or train again")
    matrices, scales = [], []
    for pair in split_record(values, rank, targets):
        for matrix in pair:
            scale = np.abs(matrix).max(axis=1) / np.float32(_LIMIT)
            # A row of zeros has scale 0, and so has one whose scale would be denormal: it could not be divided by.
            scale = np.where(scale < np.finfo(np.float32).tiny, np.float32(0), scale)
            divided = matrix / np.where(scale == 0, np.float32(1), scale)[:, None]
            matrices.append(np.where(scale[:, None] == 0, 0, np.rint(divided)).astype(np.int8).tobytes())
            scales.append(scale.astype("<f4").tobytes())
    return np.frombuffer(b"".join(matrices + scales), np.uint8)


def unpack(record: np.ndarray, rank: int, targets: tuple[Target, ...]) -> np.ndarray:
    """Any record as bf16, uint16 (n,). An int8 one is scaled in float32 and rounded to nearest even."""
    if record_type(record) == "bf16":
        return record
    parts = []
    for factors in split_quantised(record, rank, targets):
        for matrix, scales in ((factors.A, factors.A_scales), (factors.Bt, factors.Bt_scales)):
            bits = (matrix.astype(np.float32) * scales[:, None]).view(np.uint32).ravel()
            parts.append(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))
    return np.concatenate(parts)


def split_quantised(record: np.ndarray, rank: int, targets: tuple[Target, ...]) -> list[QuantisedFactors]:
    """The factors of an int8 record in the order of `targets`, as views."""
    elements = record_size(rank, targets)
    pairs = split_record(record[:elements].view(np.int8), rank, targets)
    scales = np.frombuffer(record[elements:].tobytes(), "<f4").reshape(len(targets), 2, rank)
    return [QuantisedFactors(a, both[0], bt, both[1]) for (a, bt), both in zip(pairs, scales, strict=True)]
