"""The file that keeps an approximate index for the next time, and for the next version of its store.

The file is never trusted: its sha256 is checked before FAISS sees a byte (`atomlora.router.cache`), and each of its
rows bears a fingerprint of the key that it stands for. A later version's keys are matched with the rows: those that
are gone are passed over from then on, new ones are added, and only when that has changed a quarter of the index is it
built anew. An exact index is no file, since making it is no more than copying.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from atomlora.router.cache import read_cache, write_cache
from atomlora.router.index import BLOCK, IndexKind, KeyIndex, factory, index_kind

FORMAT = "index 1"
# Of product codes' tables, which grow more slowly than the codes
TABLES_BYTES = 1 << 26
# Share of the rows that may be gone or added since the index was trained
OUTGROWN = 0.25


class Cached(NamedTuple):
    """An index as it was written: the fingerprints uint64 of its rows, and how many there were when it was trained."""

    index: Any
    keys: np.ndarray
    trained: int


def open_index(
    embeddings: np.ndarray, path: Path | None = None, wanted: IndexKind | Literal["auto"] = "auto"
) -> KeyIndex:
    """The index over float32 (n, d): brought up to date from the cache at `path` where that can be, else built (and
    cached). A cache that cannot be written (a read-only store) is no error."""
    kind = index_kind(len(embeddings), wanted)
    if kind == "flat" or path is None:
        return KeyIndex(embeddings, kind)
    keys = fingerprints(embeddings)
    cached = _load(path, kind, embeddings.shape[1])
    found = None if cached is None else _brought_up_to_date(embeddings, keys, kind, cached)
    if found is None:
        found = KeyIndex(embeddings, kind)
        cached = Cached(found.index, keys, len(keys))
    elif cached is None or found.index.ntotal == len(cached.keys):
        return found  # nothing but keys that are gone: the next time finds that out as fast
    else:
        cached = Cached(found.index, _row_keys(found, keys, cached.keys), cached.trained)
    with contextlib.suppress(OSError):
        save_index(cached, path, kind)
    return found


def fingerprints(embeddings: np.ndarray) -> np.ndarray:
    """uint64 (n,) of the rows' bytes. It tells keys apart that differ; one who makes two alike has gained nothing but
    that his own key is found less well."""
    rows = np.ascontiguousarray(embeddings, np.float32).view(np.uint32)
    odd = np.random.default_rng(0).integers(0, 2**64, rows.shape[1], np.uint64) | np.uint64(1)
    found = np.zeros(len(rows), np.uint64)
    for start in range(0, len(rows), BLOCK // 8):
        part = rows[start : start + BLOCK // 8].astype(np.uint64)
        part ^= part >> np.uint64(15)
        found[start : start + len(part)] = (part * odd).sum(axis=1, dtype=np.uint64)
    return found


def save_index(cached: Cached, path: Path, kind: IndexKind) -> None:
    """Writes the cache file; raises OSError when the disk does not take it."""
    import faiss

    arrays: dict[str, np.ndarray] = {
        "index": faiss.serialize_index(cached.index),
        "keys": cached.keys.view(np.int64),
        "trained": np.array([cached.trained], np.int64),
    }
    write_cache(path, _stamp(kind, cached.index.d), arrays)


def _stamp(kind: IndexKind, dimension: int) -> str:
    return f"{FORMAT} {factory(kind, 1 << 20, dimension)}"


def _load(path: Path, kind: IndexKind, dimension: int) -> Cached | None:
    cached = read_cache(path, _stamp(kind, dimension))
    if cached is None or {name: str(array.dtype) for name, array in cached.items()} != {
        "index": "uint8",
        "keys": "int64",
        "trained": "int64",
    }:
        return None
    with _bounded(cached["index"].nbytes):
        import faiss

        try:
            index = faiss.deserialize_index(np.array(cached["index"]).reshape(-1))
        except RuntimeError:  # bytes that were hashed, but that FAISS never wrote
            return None
    keys = np.array(cached["keys"]).view(np.uint64)
    if (index.ntotal, index.d) != (len(keys), dimension) or cached["trained"].shape != (1,):
        return None
    return Cached(index, keys, int(cached["trained"][0]))


def _brought_up_to_date(embeddings: np.ndarray, keys: np.ndarray, kind: IndexKind, cached: Cached) -> KeyIndex | None:
    """The cached index over other keys; None where it has been outgrown."""
    rows = _matched(cached.keys, keys)
    missing = np.ones(len(keys), bool)
    missing[rows[rows >= 0]] = False
    fresh = np.flatnonzero(missing)
    changed = int((rows < 0).sum()) + len(cached.keys) + len(fresh) - cached.trained
    if changed > OUTGROWN * cached.trained:
        return None
    for start in range(0, len(fresh), BLOCK):
        cached.index.add(np.ascontiguousarray(embeddings[fresh[start : start + BLOCK]], np.float32))
    rows = np.concatenate([rows, fresh])
    same = len(rows) == len(keys) and bool((rows == np.arange(len(rows))).all())
    return KeyIndex(embeddings, kind, cached.index, None if same else rows)


def _matched(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """int64 (old,): the place in `new` of each fingerprint in `old`, each taken once, -1 where there is none left."""
    old_order, new_order = np.argsort(old, kind="stable"), np.argsort(new, kind="stable")
    old_sorted, new_sorted = old[old_order], new[new_order]
    first = np.searchsorted(new_sorted, old_sorted)
    # the second of two equal ones goes to the second place, and so on
    place = first + np.arange(len(old)) - np.searchsorted(old_sorted, old_sorted)
    inside = place < len(new)
    inside[inside] = new_sorted[place[inside]] == old_sorted[inside]
    matched = np.full(len(old), -1, np.int64)
    matched[old_order[inside]] = new_order[place[inside]]
    return matched


def _row_keys(found: KeyIndex, keys: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The fingerprints of the rows of an index to which rows were added behind those of `before`."""
    added = np.arange(len(keys)) if found.rows is None else found.rows
    return np.concatenate([before, keys[added[len(before) :]]])


@contextlib.contextmanager
def _bounded(size_bytes: int) -> Iterator[None]:
    """While the block runs, FAISS reads no array and no list that claims to be larger than the whole file (or than the
    tables that it makes for product codes), and so allocates nothing of the kind. A FAISS without these limits relies
    on the file's sha256 alone."""
    import faiss

    names = [n for n in ("vector_byte_limit", "loop_limit") if hasattr(faiss, f"set_deserialization_{n}")]
    before = [getattr(faiss, f"get_deserialization_{name}")() for name in names]
    try:
        for name in names:
            getattr(faiss, f"set_deserialization_{name}")(max(size_bytes, TABLES_BYTES))
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            getattr(faiss, f"set_deserialization_{name}")(value)
