"""Scores of candidate atoms: dense and lexical parts over each atom's keys, fused with late interaction.

fused = (1 - m) * max cosine + m * mean cosine + c * lexical + l * late: cosines over all keys of the atom,
late over its document, where the store has token states (m, c, l: settings). The first two sides put up
candidates; every candidate then gets its exact score, so the fused score does not depend on who
put it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atomlora.errors import StoreError
from atomlora.router.embedder import Embedder, TokenEmbedder, TokenStates, encode_questions
from atomlora.router.index import Selection
from atomlora.router.index_cache import open_index
from atomlora.router.late import LateIndex, Rarities
from atomlora.router.lexical import Collection, open_lexical
from atomlora.router.settings import RouterSettings

# What on-topic rivals of the right atom typically get: without late interaction, and by it alone
RIVAL_SCORE = 0.4
RIVAL_LATE = 0.37


class Candidates(NamedTuple):
    """Scored atoms of one question, best first. All arrays are (c,): `atoms` int32, the others float32.

    `late` is None where late interaction was left out; `rival` is the fused score of a typical rival.
    """

    atoms: np.ndarray
    fused: np.ndarray
    dense_max: np.ndarray
    dense_mean: np.ndarray
    lexical: np.ndarray
    late: np.ndarray | None = None
    rival: float = RIVAL_SCORE


class World(NamedTuple):
    """What a question may find, and what counts as rare there: `allowed` bool (atoms,) and its keys; the documents and
    token rarities of all that the asking tenant sees (None: of the whole store)."""

    allowed: np.ndarray
    keys: Selection
    collection: Collection | None = None
    rarities: Rarities | None = None


class Scorer:
    """Keys grouped by atom, with the dense and the lexical index over them, and the atoms' token states.

    `embeddings` float32 (n, d) unit rows, `positions` int32 (n,) the atom of each key, in 0..atoms-1, `texts`
    the n key texts, `late` the token states of the atoms' documents. Raises StoreError when these do not fit
    together.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        positions: np.ndarray,
        texts: Sequence[str],
        atoms: int,
        settings: RouterSettings,
        cache: Path | None = None,
        late: LateIndex | None = None,
    ) -> None:
        check_keys(embeddings, positions, texts, atoms)
        if late is not None and late.atoms != atoms:
            raise StoreError(f"{late.atoms} documents do not fit {atoms} atoms; give one document per atom")
        self.settings = settings
        self.late = late
        self.atoms = atoms
        self.embeddings = embeddings
        self.positions = positions
        self.texts = texts
        self.index = open_index(embeddings, cache, settings.index)
        # keys of atom a: order[starts[a]:starts[a + 1]]
        self._order = np.argsort(positions, kind="stable")
        self._starts = np.searchsorted(positions[self._order], np.arange(atoms + 1))
        words = None if cache is None else cache.with_suffix(".words")
        self.lexical = open_lexical([self.document(a) for a in range(atoms)], words)

    def world(self, visible: np.ndarray | None, allowed: np.ndarray) -> World:
        """Questions see the atoms of `visible` (None: all of the store), and may find those of `allowed` among them;
        both bool (atoms,)."""
        if visible is None:
            return World(allowed, self.index.select(allowed[self.positions]))
        rarities = None if self.late is None else self.late.rarities(visible)
        allowed = allowed & visible
        return World(allowed, self.index.select(allowed[self.positions]), self.lexical.collection(visible), rarities)

    def keys_of(self, atom: int) -> np.ndarray:
        """int64 numbers of the atom's keys."""
        return self._order[self._starts[atom] : self._starts[atom + 1]]

    def document(self, atom: int, without: frozenset[int] = frozenset()) -> str:
        """The atom's key texts as one text, but for the keys in `without`."""
        return "\n".join(self.texts[key] for key in self.keys_of(atom) if int(key) not in without)

    def encode(self, embedder: Embedder, questions: Sequence[str]) -> tuple[np.ndarray, list[TokenStates]]:
        """What `score_batch` wants of the questions, in one pass of the embedder."""
        if self.late is None:
            return embedder.encode(questions), []
        return encode_questions(embedder, questions)

    def encode_tokens(self, embedder: Embedder, questions: Sequence[str]) -> Sequence[TokenStates | None]:
        """The same of questions whose vectors are known."""
        if self.late is None or not isinstance(embedder, TokenEmbedder):
            return [None] * len(questions)
        return embedder.encode_tokens(questions)

    def score_batch(
        self,
        questions: Sequence[str],
        vectors: np.ndarray,
        tokens: Sequence[TokenStates] = (),
        world: World | None = None,
    ) -> list[Candidates]:
        """Candidates of every question; `vectors` float32 (questions, d), `tokens` the questions' token
        states, without which late interaction is left out; `world`: what may be found (default: everything)."""
        found = self.index.search(vectors, self.settings.dense_candidates, world.keys if world else None)
        states: Sequence[TokenStates | None] = tokens or [None] * len(questions)
        each = zip(questions, vectors, found, states, strict=True)
        return [self._score(question, vector, keys, token, world=world) for question, vector, keys, token in each]

    def score_left_out(
        self,
        question: str,
        vector: np.ndarray,
        atom: int,
        without: frozenset[int],
        tokens: TokenStates | None = None,
    ) -> Candidates:
        """Candidates of a question as if the keys `without`, all of `atom`, were not in the store. Documents
        hold no question, so late interaction has nothing to leave out."""
        keys = self.index.search(vector[None], self.settings.dense_candidates + len(without))[0]
        keys = keys[~np.isin(keys, list(without))]
        return self._score(question, vector, keys, tokens, atom, without)

    def _score(
        self,
        question: str,
        vector: np.ndarray,
        keys: np.ndarray,
        tokens: TokenStates | None,
        atom: int = -1,
        without: frozenset[int] = frozenset(),
        world: World | None = None,
    ) -> Candidates:
        replaced = (atom, self.document(atom, without)) if without else None
        lexical = self.lexical.score(question, replaced, world.collection if world else None)
        if world is not None:
            lexical[~world.allowed] = 0
        candidates = np.union1d(self.positions[keys[keys >= 0]], _largest(lexical, self.settings.lexical_candidates))
        candidates = candidates.astype(np.int64)
        if world is not None:  # whatever found them
            candidates = candidates[world.allowed[candidates]]
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
        fused = (1 - share) * dense_max + share * dense_mean + self.settings.lexical_weight * lexical[candidates]
        late, rival = None, RIVAL_SCORE
        if self.late is not None and tokens is not None:
            late = self.late.score(tokens, candidates, world.rarities if world else None)
            fused = fused + self.settings.late_weight * late
            rival += self.settings.late_weight * RIVAL_LATE
        order = np.lexsort((candidates, -fused))
        return Candidates(
            candidates[order].astype(np.int32),
            fused[order].astype(np.float32),
            dense_max[order],
            dense_mean[order],
            lexical[candidates][order],
            None if late is None else late[order],
            rival,
        )


def check_keys(embeddings: np.ndarray, positions: np.ndarray, texts: Sequence[str], atoms: int) -> None:
    """Raises StoreError unless the keys' parts have fitting shapes and every key belongs to an atom."""
    if embeddings.ndim != 2 or embeddings.dtype != np.float32:
        raise StoreError(f"keys: embeddings must be float32 (n, d), not {embeddings.dtype} {embeddings.shape}")
    if not len(embeddings) == len(positions) == len(texts):
        raise StoreError(
            f"keys: {len(embeddings)} embeddings, {len(positions)} positions and {len(texts)} texts do not "
            "fit together; compile the store again"
        )
    if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < atoms:
        raise StoreError(f"keys: positions must lie in 0..{atoms - 1}; compile the store again")


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the `count` largest scores above zero."""
    numbers = np.flatnonzero(scores > 0)
    return numbers[np.argpartition(-scores[numbers], count)[:count]] if count < len(numbers) else numbers
