"""The safetensors framing: 8 bytes header length (little endian), a JSON header, then the tensors without
gaps.

Written and read here rather than by the safetensors package because records must be found and mapped one by
one without reading the file, and bfloat16 must be had as plain uint16 without torch. Files are readable by
safetensors. Format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from atomlora.errors import StoreError
from atomlora.store.files import DamagedFileError

HEADER_LIMIT = 16 * 1024 * 1024
"""Largest header in bytes that is written or read: a broken length must not make a reader allocate
gigabytes."""

_ITEM_SIZE = {"U8": 1, "BF16": 2, "I32": 4, "F32": 4}
_ALIGNMENT = 64


class Tensor(NamedTuple):
    """One tensor of a file: its dtype name, its shape, and where its bytes stand, counted from the file's
    start."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def frame(tensors: Sequence[tuple[str, str, tuple[int, ...]]], metadata: dict[str, str]) -> tuple[bytes, list[int]]:
    """The bytes before the tensors' data, and the offset of each tensor from the file's start.

    `tensors` are (name, dtype, shape) in file order. Raises StoreError when the header would pass
    HEADER_LIMIT.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    starts, at = [], 0
    for name, dtype, shape in tensors:
        size = prod(shape) * _ITEM_SIZE[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        starts.append(at)
        at += size
    data = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    data += b" " * (-(len(data) + 8) % _ALIGNMENT)
    if len(data) > HEADER_LIMIT:
        raise StoreError(f"a header for {len(tensors)} tensors passes {HEADER_LIMIT} bytes; write smaller segments")
    return struct.pack("<Q", len(data)) + data, [8 + len(data) + start for start in starts]


def parse(view: memoryview, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file in file order, and its metadata. Reads nothing but the header.

    Raises CorruptStoreError, naming `path`, unless the tensors fill the file exactly, without gap or overlap.
    """
    if len(view) < 8:
        raise DamagedFileError(path, "shorter than a safetensors file can be")
    (length,) = struct.unpack("<Q", view[:8])
    if length > min(HEADER_LIMIT, len(view) - 8):
        raise DamagedFileError(path, f"claims a safetensors header of {length} bytes")
    try:
        header = json.loads(bytes(view[8 : 8 + length]), object_pairs_hook=_without_duplicates)
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata must be strings")
        tensors = {name: _tensor(entry, 8 + length) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedFileError(path, f"its safetensors header cannot be read ({error})") from error
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)))
    at = 8 + length
    for name, tensor in ordered.items():
        if tensor.start != at:
            raise DamagedFileError(path, f"tensor {name[:70]!r} does not start where the one before it ends")
        at = tensor.stop
    if at != len(view):
        raise DamagedFileError(path, f"has {len(view)} bytes where its header says {at}")
    return ordered, metadata


def _tensor(entry: dict[str, Any], base: int) -> Tensor:
    dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    numbers = (*shape, start, stop)
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("shapes and offsets must be whole numbers from 0")
    if stop - start != prod(shape) * _ITEM_SIZE[dtype]:
        raise ValueError("a tensor's offsets do not agree with its shape")
    return Tensor(dtype, shape, base + start, base + stop)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found
