"""Scores of candidate atoms: dense and lexical parts fused over each atom's keys.

fused = (1 - m) * max cosine + m * mean cosine + c * lexical, over all keys of the atom (m, c: settings). Both
sides put up candidates; every candidate then gets its exact score, so the fused score does not depend on who
put it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atomlora.errors import StoreError
from atomlora.router.index import open_index, search_index
from atomlora.router.lexical import LexicalIndex
from atomlora.router.settings import RouterSettings


class Candidates(NamedTuple):
    """Scored atoms of one question, best first. All arrays are (c,): `atoms` int32, the others float32."""

    atoms: np.ndarray
    fused: np.ndarray
    dense_max: np.ndarray
    dense_mean: np.ndarray
    lexical: np.ndarray


class Scorer:
    """Keys grouped by atom, with the dense and the lexical index over them.

    `embeddings` float32 (n, d) unit rows, `positions` int32 (n,) the atom of each key, in 0..atoms-1, `texts`
    the n key texts. Raises StoreError when the three do not fit together.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        positions: np.ndarray,
        texts: Sequence[str],
        atoms: int,
        settings: RouterSettings,
        cache: Path | None = None,
        stamp: str | None = None,
    ) -> None:
        check_keys(embeddings, positions, texts, atoms)
        self.settings = settings
        self.atoms = atoms
        self.embeddings = embeddings
        self.positions = positions
        self.texts = texts
        self.index = open_index(embeddings, cache, stamp)
        # keys of atom a: order[starts[a]:starts[a + 1]]
        self._order = np.argsort(positions, kind="stable")
        self._starts = np.searchsorted(positions[self._order], np.arange(atoms + 1))
        self.lexical = LexicalIndex([self.document(a) for a in range(atoms)])

    def keys_of(self, atom: int) -> np.ndarray:
        """int64 numbers of the atom's keys."""
        return self._order[self._starts[atom] : self._starts[atom + 1]]

    def document(self, atom: int, without: frozenset[int] = frozenset()) -> str:
        """The atom's key texts as one text, but for the keys in `without`."""
        return "\n".join(self.texts[key] for key in self.keys_of(atom) if int(key) not in without)

    def score_batch(self, questions: Sequence[str], vectors: np.ndarray) -> list[Candidates]:
        """Candidates of every question; `vectors` float32 (questions, d)."""
        found = search_index(self.index, vectors, self.settings.dense_candidates)
        return [self._score(q, v, keys) for q, v, keys in zip(questions, vectors, found, strict=True)]

    def score_left_out(
        self, question: str, vector: np.ndarray, atom: int, without: frozenset[int]
    ) -> Candidates:
        """Candidates of a question as if the keys `without`, all of `atom`, were not in the store."""
        keys = search_index(self.index, vector[None], self.settings.dense_candidates + len(without))[0]
        keys = keys[~np.isin(keys, list(without))]
        return self._score(question, vector, keys, atom, without)

    def _score(
        self,
        question: str,
        vector: np.ndarray,
        keys: np.ndarray,
        atom: int = -1,
        without: frozenset[int] = frozenset(),
    ) -> Candidates:
        replaced = (atom, self.document(atom, without)) if without else None
        lexical = self.lexical.score(question, replaced)
        candidates = np.union1d(
            self.positions[keys[keys >= 0]], _largest(lexical, self.settings.lexical_candidates)
        )
        candidates = candidates.astype(np.int64)
        counts = self._starts[candidates + 1] - self._starts[candidates]
        if without:
            counts[candidates == atom] -= len(without)
        candidates, counts = candidates[counts > 0], counts[counts > 0]
        if not len(candidates):
            empty = np.zeros(0, np.float32)
            return Candidates(np.zeros(0, np.int32), empty, empty, empty, empty)
        members = np.concatenate([self.keys_of(c) for c in candidates])
        if without:
            members = members[~np.isin(members, list(without))]
        cosines = self.embeddings[members] @ vector
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        dense_max = np.maximum.reduceat(cosines, starts)
        dense_mean = np.add.reduceat(cosines, starts) / counts.astype(np.float32)
        share = self.settings.mean_share
        fused = (
            (1 - share) * dense_max + share * dense_mean + self.settings.lexical_weight * lexical[candidates]
        )
        order = np.lexsort((candidates, -fused))
        return Candidates(
            candidates[order].astype(np.int32),
            fused[order].astype(np.float32),
            dense_max[order],
            dense_mean[order],
            lexical[candidates][order],
        )


def check_keys(embeddings: np.ndarray, positions: np.ndarray, texts: Sequence[str], atoms: int) -> None:
    """Raises StoreError unless the keys' parts have fitting shapes and every key belongs to an atom."""
    if embeddings.ndim != 2 or embeddings.dtype != np.float32:
        raise StoreError(
            f"keys: embeddings must be float32 (n, d), not {embeddings.dtype} {embeddings.shape}"
        )
    if not len(embeddings) == len(positions) == len(texts):
        raise StoreError(
            f"keys: {len(embeddings)} embeddings, {len(positions)} positions and {len(texts)} texts do not "
            "fit together; compile the store again"
        )
    if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < atoms:
        raise StoreError(f"keys: positions must lie in 0..{atoms - 1}; compile the store again")


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the `count` largest scores above zero."""
    some = count < len(scores)
    numbers = np.argpartition(-scores, count)[:count] if some else np.arange(len(scores))
    return numbers[scores[numbers] > 0]
