"""Nearest keys, whatever the kind of the index."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomlora.router import index as module
from atomlora.router.index import KeyIndex, Selection, factory, index_kind

KINDS = ["flat", "hnsw", "ivf", "ivfpq"]


def unit_rows(count: int, dimension: int = 64, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def around(count: int, seed: int) -> np.ndarray:
    """Rows around sixty topics, as texts lie: rows that have no neighbourhoods nobody could index."""
    rows = unit_rows(60)[np.random.default_rng(seed).integers(0, 60, count)] + 0.7 * unit_rows(count, seed=seed + 1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


KEYS, ASKED = around(3000, 10), around(40, 20)
INDEXES = {kind: KeyIndex(KEYS, kind) for kind in KINDS}
BEST = np.argsort(-(ASKED @ KEYS.T), axis=1, kind="stable")


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted, strict=True)]))


@pytest.fixture
def approximate_selections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small selections too are left to the index."""
    monkeypatch.setattr(module, "EXACT_SELECTION", 0)


def test_flat_search_is_exact() -> None:
    np.testing.assert_array_equal(INDEXES["flat"].search(ASKED, 5), BEST[:, :5])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_finds_nearly_all_and_ranks_by_the_keys_themselves(kind: str) -> None:
    found = INDEXES[kind].search(ASKED, 8)
    assert found.shape == (40, 8)
    assert recall(found, BEST[:, :8]) > 0.95
    cosines = np.einsum("qd,qkd->qk", ASKED, KEYS[found])
    assert (np.diff(cosines, axis=1) <= 1e-6).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.05, 0.002])
def test_a_selection_is_all_that_is_found(kind: str, share: float, approximate_selections: None) -> None:
    mask = np.random.default_rng(5).random(len(KEYS)) < share
    wanted = np.array([[key for key in row if mask[key]][:8] for row in BEST])
    found = INDEXES[kind].search(ASKED, 8, Selection(mask))
    assert found.shape == wanted.shape
    assert mask[found[found >= 0]].all()
    assert recall(found, wanted) > 0.9


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivfpq"])
def test_a_selection_far_from_the_question_is_found_all_the_same(kind: str, approximate_selections: None) -> None:
    """A tenant that is asked about another's topic: none of its keys is in any list near the question."""
    mask = np.zeros(len(KEYS), bool)
    mask[BEST[0, -1500:]] = True
    found = INDEXES[kind].search(ASKED[:1], 96, Selection(mask))
    assert (found >= 0).all()
    assert mask[found].all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 2**31), st.integers(0, 3000), st.integers(1, 200))
def test_nothing_outside_of_a_selection_is_ever_found(kind: str, seed: int, size: int, count: int) -> None:
    mask = np.zeros(len(KEYS), bool)
    mask[np.random.default_rng(seed).permutation(len(KEYS))[:size]] = True
    found = INDEXES[kind].search(ASKED[:3], count, Selection(mask))
    assert found.shape == (3, min(count, size))
    assert mask[found[found >= 0]].all()
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in found)
    # small enough to be gone through one by one, so nothing is missed
    assert (found >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_stand_for_no_key_are_passed_over(kind: str, approximate_selections: None) -> None:
    kept = np.arange(len(KEYS)) % 3 > 0
    rows = np.where(kept, np.cumsum(kept) - 1, -1)
    index = KeyIndex(KEYS[kept], kind, INDEXES[kind].index, rows)
    best = np.argsort(-(ASKED @ KEYS[kept].T), axis=1, kind="stable")
    assert recall(index.search(ASKED, 8), best[:, :8]) > 0.95
    some = np.arange(kept.sum()) % 2 == 0
    found = index.search(ASKED, 8, index.select(some))
    assert some[found[found >= 0]].all()
    assert recall(found, np.array([[key for key in row if some[key]][:8] for row in best])) > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_keys_give_the_same_index(kind: str) -> None:
    again = KeyIndex(KEYS.copy(), kind)
    np.testing.assert_array_equal(again.search(ASKED, 20), INDEXES[kind].search(ASKED, 20))


def test_kind_follows_the_count_unless_it_is_named() -> None:
    assert index_kind(0) == index_kind(module.FLAT_LIMIT) == "flat"
    assert index_kind(module.FLAT_LIMIT + 1) == "ivfpq"
    assert index_kind(5_000, "hnsw") == "hnsw"
    assert index_kind(10**7, "flat") == "flat"
    assert index_kind(999, "ivfpq") == "flat"


def test_lists_grow_with_the_keys_and_odd_dimensions_are_coded_by_scalars() -> None:
    assert factory("ivfpq", 1_000_000, 384) == "IVF4096,PQ96x4fs"
    assert factory("ivfpq", 1_000_000, 386) == "IVF4096,SQ8"
    assert factory("ivf", 1_000, 384) == "IVF25,SQ8"


@pytest.mark.parametrize("count", [0, 1])
def test_few_keys(count: int) -> None:
    index = KeyIndex(unit_rows(count), "flat")
    assert index.search(unit_rows(2), 8).shape == (2, count)
    assert index.search(unit_rows(2), 8, Selection(np.zeros(count, bool))).shape == (2, 0)
    assert index.search(unit_rows(0), 8).shape == (0, 0)


def test_a_flat_index_is_searched_on_the_gpu_where_faiss_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS for GPUs is not installed here: its three names are stood in for."""
    import faiss

    moved = []

    class OnGpu:
        def __init__(self, index):
            self.index, self.searched = index, 0

        def search(self, vectors, count):
            self.searched += 1
            return self.index.search(vectors, count)

    def index_cpu_to_gpu(_resources, device, index):
        moved.append((device, OnGpu(index)))
        return moved[-1][1]

    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", index_cpu_to_gpu, raising=False)
    index = KeyIndex(KEYS, "flat")
    np.testing.assert_array_equal(index.search(ASKED, 5), BEST[:, :5])
    mask = np.arange(len(KEYS)) % 2 == 0
    assert mask[index.search(ASKED, 5, index.select(mask))].all()
    assert [(device, found.searched) for device, found in moved] == [(0, 1)]
    KeyIndex(KEYS, "ivf")
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    KeyIndex(KEYS, "flat")
    assert len(moved) == 1
