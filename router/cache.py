"""Arrays in one cache file that is checked whole before a byte of it is used.

The file is a line of JSON (stamp, sha256, and the name, type and shape of each array), padded with spaces to
a multiple of 64 bytes, then the arrays' bytes. The sha256 covers the arrays and their description; the stamp
says what they were made from. Whatever does not fit is as good as absent: a cache can always be made again.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

ALIGNMENT = 64
TYPES = frozenset({"uint8", "int32", "int64", "float16", "float32"})


def write_cache(path: Path, stamp: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a new file beside `path`, then renames: readers see the old file or the whole new one.

    Raises OSError when the disk does not take it, ValueError for an array of another type than `TYPES`.
    """
    parts = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    described = [[name, str(part.dtype), list(part.shape)] for name, part in parts.items()]
    if unknown := [kind for _, kind, _ in described if kind not in TYPES]:
        raise ValueError(f"a cache holds no arrays of type {unknown[0]}")
    digest = hashlib.sha256(json.dumps(described).encode())
    for part in parts.values():
        digest.update(part.reshape(-1).view(np.uint8).data)
        digest.update(b"\0" * (-part.nbytes % ALIGNMENT))
    header = json.dumps({"stamp": stamp, "sha256": digest.hexdigest(), "arrays": described}).encode()
    header += b" " * (-(len(header) + 1) % ALIGNMENT) + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name by which the store's gc knows what a killed process left.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(header)
            for part in parts.values():
                data = part.reshape(-1).view(np.uint8)
                stream.write(data.data)
                stream.write(b"\0" * (-part.nbytes % ALIGNMENT))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_cache(path: Path, stamp: str) -> dict[str, np.ndarray] | None:
    """The arrays by name, read-only views of the mapped file; None when it is absent, broken or of another
    stamp."""
    try:
        with path.open("rb") as stream:
            line = stream.readline()
            header = json.loads(line)
            if not isinstance(header, dict) or header["stamp"] != stamp:
                return None
            data = np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        digest = hashlib.sha256(json.dumps(header["arrays"]).encode())
        digest.update(data[len(line) :].data)
        if digest.hexdigest() != header["sha256"]:
            return None
        arrays, at = {}, len(line)
        for name, kind, shape in header["arrays"]:
            size = math.prod(shape) * np.dtype(kind).itemsize
            arrays[name] = data[at : at + size].view(kind).reshape(shape)
            at += size + -size % ALIGNMENT
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return arrays
