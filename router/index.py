"""A FAISS index over the keys, and its cache file.

The cache is never trusted: its stamp (what it was built from) and its sha256 are checked before FAISS sees a
byte (`atomlora.router.cache`). Whatever does not fit is rebuilt.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from atomlora.router.cache import read_cache, write_cache

FLAT_LIMIT = 100_000


def index_type(count: int) -> str:
    """FAISS factory string for `count` keys: exact up to `FLAT_LIMIT`, a navigable graph above."""
    return "Flat" if count <= FLAT_LIMIT else "HNSW32,Flat"


def build_index(embeddings: np.ndarray, kind: str | None = None) -> Any:
    """A FAISS inner-product index over float32 (n, d); `kind` defaults to `index_type(n)`."""
    import faiss

    index = faiss.index_factory(embeddings.shape[1], kind or index_type(len(embeddings)), faiss.METRIC_INNER_PRODUCT)
    index.add(np.ascontiguousarray(embeddings, np.float32))
    return index


def search_index(index: Any, vectors: np.ndarray, count: int) -> np.ndarray:
    """int64 (n, min(count, keys)) key numbers, nearest first; -1 where the index found fewer."""
    if not len(vectors) or not index.ntotal:
        return np.zeros((len(vectors), 0), np.int64)
    found: np.ndarray = index.search(np.ascontiguousarray(vectors, np.float32), min(count, index.ntotal))[1]
    return found


def key_stamp(embeddings: np.ndarray) -> str:
    """sha256 (hex) of the keys and of how they are indexed: equal stamps mean the same index."""
    kind = index_type(len(embeddings))
    digest = hashlib.sha256(f"{kind} {embeddings.shape}".encode())
    digest.update(np.ascontiguousarray(embeddings, np.float32).data)
    return digest.hexdigest()


def open_index(embeddings: np.ndarray, path: Path | None = None, stamp: str | None = None) -> Any:
    """The index over the keys: from the cache at `path` where it is whole and bears `stamp`, else built (and
    cached).

    `stamp` defaults to `key_stamp(embeddings)`; a store passes the digest of its keys, which it knows
    already. A cache that cannot be written (a read-only store) is no error.
    """
    if path is None:
        return build_index(embeddings)
    stamp = stamp or key_stamp(embeddings)
    index = _load(path, stamp, embeddings.shape)
    if index is None:
        index = build_index(embeddings)
        with contextlib.suppress(OSError):
            save_index(index, path, stamp)
    return index


def save_index(index: Any, path: Path, stamp: str) -> None:
    """Writes the cache file of an index; raises OSError when the disk does not take it."""
    import faiss

    write_cache(path, stamp, {"index": faiss.serialize_index(index)})


def _load(path: Path, stamp: str, shape: tuple[int, ...]) -> Any | None:
    cached = read_cache(path, stamp)
    if cached is None or cached.keys() != {"index"} or cached["index"].dtype != np.uint8:
        return None
    with _bounded(cached["index"].nbytes):
        import faiss

        try:
            index = faiss.deserialize_index(np.array(cached["index"]).reshape(-1))
        except RuntimeError:  # bytes that were hashed, but that FAISS never wrote
            return None
    # a stamp handed in by the caller may be right while the keys are not: never search another set of keys
    return index if (index.ntotal, index.d) == shape else None


@contextlib.contextmanager
def _bounded(size_bytes: int) -> Iterator[None]:
    """While the block runs, FAISS reads no array and no list that claims to be larger than the whole file, and so
    allocates nothing of the kind. A FAISS without these limits relies on the file's sha256 alone."""
    import faiss

    names = [n for n in ("vector_byte_limit", "loop_limit") if hasattr(faiss, f"set_deserialization_{n}")]
    before = [getattr(faiss, f"get_deserialization_{name}")() for name in names]
    try:
        for name in names:
            getattr(faiss, f"set_deserialization_{name}")(size_bytes)
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            getattr(faiss, f"set_deserialization_{name}")(value)
