"""Late interaction: how well each word of a question is met by some word of an atom's document.

Pooled vectors blur what a question names; here every token of the question looks for its best match among
the tokens of the document, "title. headings. text", and the matches are averaged. A token counts for its
rarity in the store, and stop words for a fifth of theirs: what "Kestrin" or "the" matches tells nothing apart
where every document holds it. The states are those of the embedder that makes the keys, which was not trained
for this; weighted so, they rank atoms better than its pooled vectors all the same.

Source: Khattab and Zaharia, ColBERT (arXiv 2004.12832), whose MaxSim this is, but for the weights.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atomlora.router.cache import read_cache, write_cache
from atomlora.router.embedder import Embedder, TokenEmbedder, TokenStates
from atomlora.router.lexical import STOP_WORDS

FORMAT = "tokens 1"
STOP_WEIGHT = 0.2
# Stores of up to this many tokens keep their states as float32 too (1.5 KiB a token): no question converts
# them
READY_TOKENS = 32_768
DOCUMENTS_AT_ONCE = 256


class Rarities(NamedTuple):
    """What each token of a question counts: float32 (vocabulary,) by token id, and what an unheard one does."""

    weights: np.ndarray
    unknown: np.float32


class LateIndex:
    """Token states of the atoms' documents: those of atom a are rows starts[a]:starts[a + 1].

    `states` float16 (t, d) unit rows, `ids` int32 (t,) token ids, `starts` int64 (atoms + 1,), `stop` int32
    ids of stop words. Holds no state of any question; threads may share it.
    """

    def __init__(self, states: np.ndarray, ids: np.ndarray, starts: np.ndarray, stop: np.ndarray) -> None:
        self.states = states.astype(np.float32) if len(states) <= READY_TOKENS else states
        self.starts = starts
        self.atoms = len(starts) - 1
        self._ids, self._stop = ids, stop
        self._rarities = self.rarities(np.ones(self.atoms, bool))

    def rarities(self, atoms: np.ndarray) -> Rarities:
        """What tokens count where the store holds but the atoms of a bool mask (atoms,)."""
        owners = np.repeat(np.arange(self.atoms), np.diff(self.starts))
        kept = atoms[owners]
        owners, ids, count = owners[kept], self._ids[kept], int(atoms.sum())
        size = int(max(self._ids.max(initial=0), self._stop.max(initial=0))) + 1
        held = np.unique(owners * size + ids) % size
        counts = np.bincount(held, minlength=size)
        rarity = np.log1p((count - counts + 0.5) / (counts + 0.5))
        rarity[self._stop] *= STOP_WEIGHT
        return Rarities(rarity.astype(np.float32), np.float32(np.log1p((count + 0.5) / 0.5)))

    def weights(self, ids: Sequence[int], rarities: Rarities | None = None) -> np.ndarray:
        """float32 (len(ids),): what each token of a question counts."""
        known, unknown = rarities or self._rarities
        tokens = np.asarray(ids, np.int64)
        inside = tokens < len(known)
        return np.where(inside, known[np.where(inside, tokens, 0)], unknown)

    def score(self, question: TokenStates, atoms: np.ndarray, rarities: Rarities | None = None) -> np.ndarray:
        """float32 (len(atoms),) in [-1, 1]: weighted mean over the question's tokens of the largest cosine
        with a token of the atom's document; 0 for an empty document or question. `rarities`: what tokens count
        (default: by the whole store)."""
        states, ids = question
        scores = np.zeros(len(atoms), np.float32)
        counts = self.starts[atoms + 1] - self.starts[atoms]
        filled = counts > 0
        weights = self.weights(ids, rarities)
        total = weights.sum()
        if not filled.any() or not total > 0:
            return scores
        kept, counts = np.asarray(atoms)[filled], counts[filled]
        ends = np.cumsum(counts)
        rows = np.concatenate([self.states[self.starts[a] : self.starts[a + 1]] for a in kept])
        cosines = _float32(rows) @ states.T
        best = np.maximum.reduceat(cosines, np.concatenate([[0], ends[:-1]]), axis=0)
        scores[filled] = best @ (weights / total)
        return scores


def _float32(rows: np.ndarray) -> np.ndarray:
    """The rows as float32; by torch, which converts float16 some five times faster than numpy does."""
    if rows.dtype == np.float32:
        return rows
    import torch

    converted: np.ndarray = torch.from_numpy(rows).float().numpy()
    return converted


def open_late(embedder: Embedder, documents: Sequence[str] | None, path: Path | None = None) -> LateIndex | None:
    """The index over one document per atom: from the cache at `path` where it is whole and of this embedder.
    None without documents, or where the embedder gives no token states.

    States of documents that the cache does not hold are computed, and the cache is written anew; a cache that
    cannot be written (a read-only store) is no error.
    """
    if documents is None or not isinstance(embedder, TokenEmbedder):
        return None
    digests = np.array([list(hashlib.sha256(d.encode()).digest()) for d in documents], np.uint8)
    digests = digests.reshape(len(documents), 32)
    stamp = f"{FORMAT} {embedder.fingerprint}"
    cached = read_cache(path, stamp) if path is not None else None
    if cached is not None and not _fits(cached):
        cached = None
    if cached is None or not np.array_equal(cached["documents"], digests):
        cached = _compute(embedder, documents, digests, cached)
        if path is not None:
            with contextlib.suppress(OSError):
                write_cache(path, stamp, cached)
    return LateIndex(cached["states"], cached["ids"], cached["starts"], cached["stop"])


def _fits(cached: dict[str, np.ndarray]) -> bool:
    """Whether the arrays of a cache belong together, as they do unless something else wrote the file."""
    if cached.keys() != {"states", "ids", "starts", "stop", "documents"}:
        return False
    states, ids, starts, documents = (cached[n] for n in ("states", "ids", "starts", "documents"))
    return (
        states.ndim == documents.ndim == 2
        and ids.ndim == starts.ndim == cached["stop"].ndim == 1
        and len(starts) == len(documents) + 1
        and int(starts[0]) == 0
        and int(starts[-1]) == len(states) == len(ids)
        and bool((np.diff(starts) >= 0).all())
    )


def _compute(
    embedder: TokenEmbedder, documents: Sequence[str], digests: np.ndarray, old: dict[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """The arrays of the cache; a document that the `old` ones hold is taken over from there."""
    places = {row.tobytes(): n for n, row in enumerate(old["documents"])} if old is not None else {}
    found: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(documents)
    missing = []
    for number, row in enumerate(digests):
        place = places.get(row.tobytes())
        if old is None or place is None:
            missing.append(number)
        else:
            part = slice(int(old["starts"][place]), int(old["starts"][place + 1]))
            found[number] = (old["states"][part], old["ids"][part])
    for at in range(0, len(missing), DOCUMENTS_AT_ONCE):
        some = missing[at : at + DOCUMENTS_AT_ONCE]
        for number, (states, ids) in zip(some, embedder.encode_tokens([documents[n] for n in some]), strict=True):
            found[number] = (states.astype(np.float16), np.asarray(ids, np.int32))
    parts = [part for part in found if part is not None]
    stop = embedder.encode_tokens([" ".join(sorted(STOP_WORDS)), "? ' s"]) if old is None else []
    return {
        "states": np.concatenate([np.zeros((0, embedder.dimension), np.float16), *(s for s, _ in parts)]),
        "ids": np.concatenate([np.zeros(0, np.int32), *(i for _, i in parts)]),
        "starts": np.concatenate([[0], np.cumsum([len(i) for _, i in parts])]).astype(np.int64),
        "stop": np.unique(np.concatenate([np.asarray(i, np.int32) for _, i in stop])) if old is None else old["stop"],
        "documents": digests,
    }
