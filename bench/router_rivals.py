"""What bench/router.py compares the router with: cosine search and BM25 over the same atoms and passages.

A rival gives every question a ranking of atoms (or of passages, where `passages` is set), a score that says how sure
it is that the store covers the question, and weights for what it ranks first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import faiss
import numpy as np

from atomlora.router import Embedder
from atomlora.router.lexical import LexicalIndex

TOP = 8
# Of the flat softmax: the scale that sentence-transformers trains cosines with
SOFTMAX_SCALE = 20.0


class Ranked(NamedTuple):
    """Of one question: numbers of atoms or passages, best first; their weights in [0, 1], None where the rival gives
    none; and how sure it is."""

    numbers: list[int]
    weights: list[float] | None
    sure: float


class FlatCosine:
    """FAISS Flat over one MiniLM vector per text, as a plain retriever has it; `owners`: the number that each text
    stands for. Weights: a softmax over the cosines of all."""

    def __init__(self, name: str, embedder: Embedder, vectors: np.ndarray, owners: np.ndarray, passages: bool) -> None:
        self.name, self.passages = name, passages
        self._embedder, self._owners = embedder, owners
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(np.ascontiguousarray(vectors, np.float32))

    def rank(self, question: str) -> Ranked:
        """The texts' owners by their best cosine."""
        fetched = min(16 * TOP, self._index.ntotal)
        cosines, found = self._index.search(self._embedder.encode([question]), fetched)
        owners = self._owners[found[0]]
        _, first = np.unique(owners, return_index=True)
        first = np.sort(first)[:TOP]
        likely = np.exp(SOFTMAX_SCALE * (cosines[0] - cosines[0, 0]))
        weights = likely[first] / likely[np.sort(np.unique(owners, return_index=True)[1])].sum()
        return Ranked(owners[first].tolist(), weights.tolist(), float(cosines[0, 0]))

    @property
    def size_bytes(self) -> int:
        """Bytes of the vectors."""
        return int(self._index.ntotal * self._index.d * 4)


class Lexical:
    """BM25 alone: bm25s where it is installed, else the router's own lexical part."""

    def __init__(self, name: str, texts: Sequence[str], passages: bool) -> None:
        self.passages = passages
        self._count = len(texts)
        try:
            import bm25s
        except ImportError:
            self.name = f"{name}-own"
            self._own: LexicalIndex | None = LexicalIndex(texts)
            return
        self.name, self._own = name, None
        self._bm25s = bm25s
        self._retriever: Any = bm25s.BM25()
        self._retriever.index(bm25s.tokenize(list(texts), stopwords="en", show_progress=False), show_progress=False)

    def rank(self, question: str) -> Ranked:
        """The texts by BM25; how sure it is: the best score."""
        if self._own is not None:
            scores = self._own.score(question)
            order = np.argsort(-scores, kind="stable")[:TOP]
            return Ranked(order.tolist(), None, float(scores.max(initial=0.0)))
        tokens = self._bm25s.tokenize(question, stopwords="en", show_progress=False)
        found, scores = self._retriever.retrieve(tokens, k=min(TOP, self._count), show_progress=False)
        return Ranked(found[0].tolist(), None, float(scores[0, 0]) if scores.size else 0.0)

    @property
    def size_bytes(self) -> int | None:
        """Unknown: its postings are spread over Python objects."""
        return None


def roc_area(inside: Sequence[float], outside: Sequence[float]) -> float:
    """P(a covered question gets a higher value than a foreign one), ties for half (Mann and Whitney, 1947)."""
    values = np.concatenate([inside, outside])
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values))
    ranks[order] = np.arange(1, len(values) + 1)
    for value in np.unique(values):
        same = values == value
        ranks[same] = ranks[same].mean()
    above = ranks[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2
    return float(above / (len(inside) * len(outside)))


def stopping_threshold(confidences: np.ndarray, alpha: float) -> float:
    """The smallest threshold below which all but a share `alpha` of the `confidences` lie."""
    ordered = np.sort(confidences)[::-1]
    return float(np.nextafter(ordered[min(int(alpha * len(ordered)), len(ordered) - 1)], np.inf))


def refusal(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 of refusing foreign questions, from which of either were refused (bool)."""
    right, wrong = float(outside.sum()), float(inside.sum())
    precision = right / (right + wrong) if right + wrong else 0.0
    share = right / len(outside)
    f1 = 2 * precision * share / (precision + share) if precision + share else 0.0
    return {"precision": precision, "recall": share, "f1": f1, "answerable_refused": wrong / len(inside)}


def best_refusal(inside: Sequence[float], outside: Sequence[float]) -> float:
    """The largest F1 of refusing that any threshold on these values reaches, chosen by the test questions."""
    one, other = np.asarray(inside), np.asarray(outside)
    return max(refusal(one < t, other < t)["f1"] for t in np.unique(np.concatenate([one, other, [np.inf]])))
