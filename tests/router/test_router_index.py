"""The FAISS index and its cache file."""

import os
from pathlib import Path

import numpy as np
import pytest

from atomlora.router import index as module
from atomlora.router.cache import write_cache
from atomlora.router.index import build_index, index_type, key_stamp, open_index, search_index


def unit_rows(count: int, dimension: int = 24, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_flat_search_is_exact() -> None:
    keys, asked = unit_rows(133), unit_rows(7, seed=1)
    found = search_index(build_index(keys), asked, 5)
    np.testing.assert_array_equal(found, np.argsort(-(asked @ keys.T), axis=1)[:, :5])


def test_graph_search_finds_nearly_all() -> None:
    keys, asked = unit_rows(3000), unit_rows(40, seed=1)
    exact = search_index(build_index(keys, "Flat"), asked, 10)
    graph = search_index(build_index(keys, "HNSW32,Flat"), asked, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, graph, strict=True)])
    assert recall > 0.8


def test_type_follows_the_count() -> None:
    assert index_type(1) == index_type(100_000) == "Flat"
    assert index_type(100_001) == "HNSW32,Flat"


@pytest.mark.parametrize("count", [0, 1])
def test_few_keys(count: int) -> None:
    assert search_index(build_index(unit_rows(count)), unit_rows(2), 8).shape == (2, count)


def test_cache_is_used_when_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, path = unit_rows(50), tmp_path / "cache" / "keys.faiss"
    first = search_index(open_index(keys, path), keys[:3], 4)
    monkeypatch.setattr(module, "build_index", lambda embeddings: pytest.fail("rebuilt a good cache"))
    np.testing.assert_array_equal(search_index(open_index(keys, path), keys[:3], 4), first)
    assert [p.name for p in path.parent.iterdir()] == ["keys.faiss"]


def test_every_damaged_cache_is_rebuilt(tmp_path: Path) -> None:
    keys, path = unit_rows(20, 8), tmp_path / "keys.faiss"
    open_index(keys, path)
    whole = path.read_bytes()
    want = search_index(build_index(keys), keys, 3)
    random = np.random.default_rng(3)
    damaged = [b"", b"\n", b"[]\n", b"{}\nabc", whole[:40], whole[:-1], whole + b"x"]
    flips = 1000 if os.environ.get("ATOMLORA_FAULTS") == "full" else 60
    for place in random.integers(0, len(whole), flips):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(random.integers(8))
        damaged.append(bytes(flipped))
    for data in damaged:
        path.write_bytes(data)
        np.testing.assert_array_equal(search_index(open_index(keys, path), keys, 3), want)
        assert path.read_bytes() == whole
    print(f"faults: keys.faiss: {len(damaged)} of {len(damaged)} damaged caches rebuilt")


def test_an_index_that_claims_absurd_sizes_is_not_read(tmp_path: Path) -> None:
    """Its hash is right, so somebody wrote it on purpose: counts in it claim up to exabytes."""
    import faiss

    keys, path = unit_rows(20, 8), tmp_path / "keys.faiss"
    before = faiss.get_deserialization_vector_byte_limit()
    honest = faiss.serialize_index(build_index(keys))
    want = search_index(build_index(keys), keys, 3)
    stamp = key_stamp(keys)
    for size in (2**31, 2**40, 2**62, 2**64 - 1):
        for at in range(0, len(honest) - 8, 4):
            if honest[at : at + 8].view(np.uint64)[0] not in (20, 160, 640, 8):
                continue
            lying = honest.copy()
            lying[at : at + 8] = np.frombuffer(np.uint64(size).tobytes(), np.uint8)
            write_cache(path, stamp, {"index": lying})
            np.testing.assert_array_equal(search_index(open_index(keys, path, stamp), keys, 3), want)
    write_cache(path, stamp, {"index": np.frombuffer(b"IxMp" + b"\xff" * 60, np.uint8)})
    np.testing.assert_array_equal(search_index(open_index(keys, path, stamp), keys, 3), want)
    assert faiss.get_deserialization_vector_byte_limit() == before


def test_a_cache_of_other_keys_is_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "keys.faiss"
    old, new = unit_rows(20), unit_rows(20, seed=5)
    open_index(old, path)
    np.testing.assert_array_equal(search_index(open_index(new, path), new, 1)[:, 0], np.arange(20))
    # the caller's own stamp: a stale one rebuilds, and one that lies about the count does not mislead
    open_index(old, path, "version 1")
    np.testing.assert_array_equal(search_index(open_index(new, path, "version 2"), new, 1)[:, 0], np.arange(20))
    assert open_index(unit_rows(9), path, "version 2").ntotal == 9


def test_stamp_tells_keys_apart() -> None:
    keys = unit_rows(6)
    assert key_stamp(keys) == key_stamp(keys.copy())
    assert key_stamp(keys) != key_stamp(keys[::-1]) != key_stamp(keys[:5])


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert open_index(unit_rows(4), tmp_path / "file" / "keys.faiss").ntotal == 4
