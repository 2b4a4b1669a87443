"""The keys nearest to a question: exact for stores of usual size, by an approximate FAISS index above.

Approximate kinds hold codes of the keys, not the keys: what they find is ranked anew by the exact cosines of the
embeddings, which stay where they are (a store's lie in a mapped file). What a search may find is a `Selection`, which
FAISS obeys while it searches; where it is small, or the graph or the lists would have to be walked for long to meet
enough of it, it is gone through exactly.

Sources: HNSW, Malkov and Yashunin (arXiv 1603.09320); inverted lists and product codes, Jégou, Douze and Schmid (TPAMI
2011), with 4-bit codes as André, Kermarrec and Le Scouarnec scan them (VLDB 2015); their FAISS, Douze et al.
(arXiv 2401.08281).
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any, Literal

import numpy as np

IndexKind = Literal["flat", "hnsw", "ivf", "ivfpq"]

# Exact search of so many keys takes about as long as embedding the question
FLAT_LIMIT = 50_000
# Selections of up to this many keys are gone through one by one under any kind
EXACT_SELECTION = 10_000
# Fewer keys than this teach a coarse quantiser nothing
LEAST_TO_TRAIN = 1_000
TRAINED_PER_LIST = 40
# Keys fetched for each one wanted, where codes stand for them, and how many at least
FETCHED = {"flat": (1, 0), "hnsw": (2, 0), "ivf": (2, 0), "ivfpq": (4, 256)}
PROBED_LISTS = 64
GRAPH_EFFORT = 128
BLOCK = 65_536


class Selection:
    """The keys that a search may find: bool (keys,). `rows` as of the index that is to be searched."""

    def __init__(self, mask: np.ndarray, rows: np.ndarray | None = None) -> None:
        self.mask, self._rows = mask, rows
        self.count = int(np.count_nonzero(mask))

    @cached_property
    def numbers(self) -> np.ndarray:
        """int64 (count,) key numbers."""
        return np.flatnonzero(self.mask)

    @cached_property
    def bits(self) -> np.ndarray:
        """uint8: a bit for every row of the index."""
        rows = self._rows
        mask = self.mask if rows is None else np.where(rows >= 0, self.mask[rows], False)
        return np.packbits(mask, bitorder="little")


class KeyIndex:
    """Nearest keys by inner product over `embeddings` float32 (n, d), unit rows, which it keeps and does not copy.

    `rows` int64: the key of each row of the FAISS `index`, -1 where that key is gone (default: row = key). Threads may
    share it.
    """

    def __init__(
        self, embeddings: np.ndarray, kind: IndexKind, index: Any | None = None, rows: np.ndarray | None = None
    ) -> None:
        self.embeddings = embeddings
        self.kind = kind
        self.index = build_index(embeddings, kind) if index is None else index
        self.rows = rows
        self._gpu = on_gpu(self.index) if kind == "flat" else None
        self._gpu_lock = threading.Lock()
        gone = rows is not None and bool((rows < 0).any())
        self._all = self.select(np.ones(len(embeddings), bool)) if gone else None

    def select(self, mask: np.ndarray) -> Selection:
        """The keys of a bool mask (n,), for `search`."""
        return Selection(mask, self.rows)

    def search(self, vectors: np.ndarray, count: int, within: Selection | None = None) -> np.ndarray:
        """int64 (questions, min(count, keys)) key numbers, nearest first; -1 where fewer were found. `vectors` float32
        (questions, d); `within`: which keys may be found (default: all)."""
        within = within or self._all
        available = len(self.embeddings) if within is None else within.count
        count = min(count, available)
        if not len(vectors) or not count:
            return np.zeros((len(vectors), 0), np.int64)
        vectors = np.ascontiguousarray(vectors, np.float32)
        if self.kind != "flat" and available <= EXACT_SELECTION and within is not None:
            numbers = np.broadcast_to(within.numbers, (len(vectors), available))
            return self._ranked(vectors, numbers, count)
        if self._gpu is not None and within is None:
            with self._gpu_lock:  # FAISS's GPU indexes take one search at a time
                return np.asarray(self._gpu.search(vectors, count)[1])
        times, least = FETCHED[self.kind]
        fetched = min(max(count * times, least), available)
        share = available / max(self.index.ntotal, 1)
        found = self.index.search(vectors, fetched, params=self._parameters(fetched, share, within))[1]
        missed = found[:, count - 1] < 0
        if missed.any() and self.kind.startswith("ivf"):
            # what may be found lies elsewhere, so every list is looked into
            everywhere = self._parameters(fetched, 0.0, within)
            found[missed] = self.index.search(vectors[missed], fetched, params=everywhere)[1]
        if self.rows is not None:
            found = np.where(found >= 0, self.rows[found], -1)
        return found if self.kind == "flat" else self._ranked(vectors, found, count)

    def _ranked(self, vectors: np.ndarray, numbers: np.ndarray, count: int) -> np.ndarray:
        """The `count` best of each question's key numbers, by exact cosine."""
        best = np.full((len(vectors), count), -1, np.int64)
        for row, (vector, some) in enumerate(zip(vectors, numbers, strict=True)):
            some = some[some >= 0]
            order = np.argsort(-(self.embeddings[some] @ vector), kind="stable")[:count]
            best[row, : len(order)] = some[order]
        return best

    def _parameters(self, fetched: int, share: float, within: Selection | None) -> Any:
        """FAISS's search parameters: the rarer what may be found, the further is searched."""
        faiss = _faiss()
        allowed = {} if within is None else {"sel": faiss.IDSelectorBitmap(within.bits)}
        if self.kind == "flat":
            return faiss.SearchParameters(**allowed) if allowed else None
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=int(max(GRAPH_EFFORT, fetched) / share), **allowed)
        lists = self.index.nlist if share * self.index.nlist <= PROBED_LISTS else int(PROBED_LISTS / share)
        return faiss.SearchParametersIVF(nprobe=lists, **allowed)


def on_gpu(index: Any) -> Any | None:
    """The index on the first GPU, where a FAISS made for GPUs is installed and finds one. Only searches of everything
    go there: it obeys no selection."""
    faiss = _faiss()
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return None
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


def index_kind(count: int, wanted: IndexKind | Literal["auto"] = "auto") -> IndexKind:
    """The kind for `count` keys: exact up to `FLAT_LIMIT`, inverted lists of product codes above; or the wanted one,
    where there are keys enough to train it."""
    if count < LEAST_TO_TRAIN:
        return "flat"
    if wanted != "auto":
        return wanted
    return "flat" if count <= FLAT_LIMIT else "ivfpq"


def factory(kind: IndexKind, count: int, dimension: int) -> str:
    """FAISS's name for the kind over `count` keys: about 4 sqrt(count) lists; codes of 8 bits a dimension, or of 4
    bits for four."""
    lists = 1 << max(0, round(np.log2(4 * np.sqrt(max(count, 1)))))
    lists = max(1, min(lists, count // TRAINED_PER_LIST))
    match kind:
        case "flat":
            return "Flat"
        case "hnsw":
            return "HNSW32,SQ8"
        case "ivf":
            return f"IVF{lists},SQ8"
        case _:
            return f"IVF{lists},PQ{dimension // 4}x4fs" if dimension % 4 == 0 else f"IVF{lists},SQ8"


def build_index(embeddings: np.ndarray, kind: IndexKind) -> Any:
    """A FAISS inner-product index over float32 (n, d), trained on a sample that is the same each time."""
    faiss = _faiss()
    count, dimension = embeddings.shape
    index = faiss.index_factory(dimension, factory(kind, count, dimension), faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        wanted = min(count, TRAINED_PER_LIST * getattr(index, "nlist", 1) + 10_000)
        sample = np.sort(np.random.default_rng(0).choice(count, wanted, replace=False))
        _spare(index)
        index.train(np.ascontiguousarray(embeddings[sample], np.float32))
    for start in range(0, count, BLOCK):
        index.add(np.ascontiguousarray(embeddings[start : start + BLOCK], np.float32))
    return index


def _faiss() -> Any:
    """FAISS, imported when it is first needed; what it says of its own types is not what it takes."""
    import faiss

    return faiss


def _spare(index: Any) -> None:
    """Clustering without FAISS's warnings on stderr about small samples, and in a few rounds: the codes are ranked
    anew by the keys themselves."""
    for part in (index, getattr(index, "pq", None)):
        if (clustering := getattr(part, "cp", None)) is not None:
            clustering.niter, clustering.min_points_per_centroid = 10, 1
