"""The cache file of an approximate index: never believed, kept for the next version."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomlora.router import index as index_module
from atomlora.router import index_cache as module
from atomlora.router.cache import write_cache
from atomlora.router.index_cache import fingerprints, open_index

KIND = "hnsw"


def unit_rows(count: int, dimension: int = 8, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


KEYS = unit_rows(1400)
NEVER = "nothing may be built here"


@pytest.fixture(autouse=True)
def approximate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "EXACT_SELECTION", 0)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A cache of KEYS."""
    path = tmp_path / "cache" / "keys.faiss"
    open_index(KEYS, path, KIND)
    return path


def finds_itself(keys: np.ndarray, path: Path) -> float:
    """Share of the keys that come first when they are asked for."""
    found = open_index(keys, path, KIND).search(keys, 1)[:, 0]
    return float(np.mean(np.all(keys[found] == keys, axis=1) & (found >= 0)))


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "ivfpq"])
def test_cache_is_used_when_whole(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.faiss"
    first = open_index(KEYS, path, kind).search(KEYS[:3], 4)
    monkeypatch.setattr(index_module, "build_index", lambda *_: pytest.fail(NEVER))
    np.testing.assert_array_equal(open_index(KEYS, path, kind).search(KEYS[:3], 4), first)
    assert [p.name for p in tmp_path.iterdir()] == ["keys.faiss"]


def test_an_exact_index_is_no_file(tmp_path: Path) -> None:
    assert open_index(KEYS, tmp_path / "keys.faiss").kind == "flat"
    assert list(tmp_path.iterdir()) == []


def test_every_damaged_cache_is_rebuilt(built: Path) -> None:
    keys = KEYS
    whole = built.read_bytes()
    want = open_index(keys, None, KIND).search(keys[:50], 3)
    random = np.random.default_rng(3)
    damaged = [b"", b"\n", b"[]\n", b"{}\nabc", whole[:40], whole[:-1], whole + b"x"]
    flips = 300 if os.environ.get("ATOMLORA_FAULTS") == "full" else 12
    for place in random.integers(0, len(whole), flips):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(random.integers(8))
        damaged.append(bytes(flipped))
    for data in damaged:
        built.write_bytes(data)
        np.testing.assert_array_equal(open_index(keys, built, KIND).search(keys[:50], 3), want)
        assert built.read_bytes() == whole
    print(f"faults: keys.faiss: {len(damaged)} of {len(damaged)} damaged caches rebuilt")


def test_an_index_that_claims_absurd_sizes_is_not_read(built: Path) -> None:
    """Its hash is right, so somebody wrote it on purpose: counts in it claim up to exabytes."""
    import faiss

    before = faiss.get_deserialization_vector_byte_limit()
    honest = faiss.serialize_index(open_index(KEYS, built, KIND).index)
    stamp = module._stamp(KIND, KEYS.shape[1])
    extra = {"keys": fingerprints(KEYS).view(np.int64), "trained": np.array([len(KEYS)])}
    sizes = honest[: len(honest) // 8 * 8].view(np.uint64)
    places = [at * 8 for at in np.flatnonzero((sizes > 7) & (sizes < 200_000))][::40]
    want = open_index(KEYS, None, KIND).search(KEYS[:20], 3)
    for size in (2**40, 2**62, 2**64 - 1):
        for at in places[:4]:
            lying = honest.copy()
            lying[at : at + 8] = np.frombuffer(np.uint64(size).tobytes(), np.uint8)
            write_cache(built, stamp, {"index": lying, **extra})
            assert open_index(KEYS, built, KIND).search(KEYS[:20], 3).shape == want.shape
    write_cache(built, stamp, {"index": np.frombuffer(b"IxMp" + b"\xff" * 60, np.uint8), **extra})
    np.testing.assert_array_equal(open_index(KEYS, built, KIND).search(KEYS[:20], 3), want)
    assert faiss.get_deserialization_vector_byte_limit() == before


def test_keys_that_are_gone_need_no_new_index_and_no_new_file(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "build_index", lambda *_: pytest.fail(NEVER))
    before = built.read_bytes()
    kept = np.delete(KEYS, np.arange(0, 1400, 10), axis=0)
    index = open_index(kept, built, KIND)
    found = index.search(KEYS[::10], 5)
    assert found.max() < len(kept)
    assert finds_itself(kept, built) > 0.98
    assert built.read_bytes() == before


def test_new_keys_are_added_to_what_is_there(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "build_index", lambda *_: pytest.fail(NEVER))
    before = built.read_bytes()
    grown = np.concatenate([unit_rows(60, seed=4), KEYS[200:], unit_rows(40, seed=5)])
    assert finds_itself(grown, built) > 0.98
    assert built.read_bytes() != before
    again = open_index(grown, built, KIND)
    assert again.index.ntotal == 1500
    assert finds_itself(grown, built) > 0.98
    # back to the version before: the rows of the other one are passed over
    assert finds_itself(KEYS, built) > 0.98


def test_an_outgrown_index_is_built_anew(built: Path) -> None:
    other = np.concatenate([KEYS[:900], unit_rows(600, seed=8)])
    assert open_index(other, built, KIND).index.ntotal == len(other)
    assert finds_itself(other, built) > 0.98
    foreign = unit_rows(1400, seed=9)
    assert open_index(foreign, built, KIND).index.ntotal == len(foreign)


def test_many_small_changes_outgrow_an_index_too(built: Path) -> None:
    keys = KEYS
    for round_number in range(8):
        keys = np.concatenate([keys[60:], unit_rows(60, seed=20 + round_number)])
        index = open_index(keys, built, KIND)
        assert index.index.ntotal <= 1.26 * len(keys)
    assert finds_itself(keys, built) > 0.98


def test_another_kind_or_dimension_is_another_index(built: Path) -> None:
    assert open_index(KEYS, built, "ivf").kind == "ivf"
    assert finds_itself(KEYS, built) > 0.98
    wider = unit_rows(1400, 12)
    assert open_index(wider, built, KIND).index.d == 12


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=30), st.lists(st.integers(0, 6), max_size=30))
def test_equal_keys_are_matched_one_to_one(old: list[int], new: list[int]) -> None:
    before, after = np.array(old, np.uint64), np.array(new, np.uint64)
    rows = module._matched(before, after)
    kept = rows[rows >= 0]
    assert len(set(kept.tolist())) == len(kept)
    assert all(before[i] == after[row] for i, row in enumerate(rows) if row >= 0)
    assert len(kept) == sum(min(old.count(value), new.count(value)) for value in set(old))


def test_fingerprints_tell_keys_apart() -> None:
    changed = KEYS.copy()
    changed[7, 3] = np.nextafter(changed[7, 3], np.float32(1))
    assert np.flatnonzero(fingerprints(KEYS) != fingerprints(changed)).tolist() == [7]
    assert len(np.unique(fingerprints(KEYS))) == len(KEYS)
    swapped = KEYS[:, ::-1]
    assert (fingerprints(np.ascontiguousarray(swapped)) != fingerprints(KEYS)).all()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert open_index(KEYS, tmp_path / "file" / "keys.faiss", KIND).index.ntotal == 1400
