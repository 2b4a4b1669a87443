"""From a question to the atoms that matter to it: `Router.route`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from atomlora.errors import StoreError, UsageError
from atomlora.router.calibrate import Calibration
from atomlora.router.embedder import Embedder
from atomlora.router.filters import AtomAttributes, AttributeTable, RouteFilter
from atomlora.router.hops import Found, follow
from atomlora.router.late import open_late
from atomlora.router.rerank import Reranker
from atomlora.router.scores import Candidates, Scorer, World
from atomlora.router.second_look import READ, Evidence, joined, unsure
from atomlora.router.settings import RouterSettings

# Filters whose masks are kept: a tenant asks more than once
WORLDS_KEPT = 64


class RoutedAtom(BaseModel):
    """An atom with its gate `weight` in [0, 1] and its fused `score` (see `atomlora.router.scores`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    weight: float
    score: float


class Route(BaseModel):
    """The atoms for a question, best first; none where the router `abstained`. `confidence`: P(the store
    covers it)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    atoms: tuple[RoutedAtom, ...]
    abstained: bool
    confidence: float


class Router:
    """Routes questions over one version of a store. Holds no state of any question; threads may share it.

    `embeddings` float32 (n, d) unit rows, `positions` int32 (n,) index into `atom_ids`, `texts` (n) the key
    texts; `cache` is a file for the FAISS index. `documents`, one per atom ("title. headings. text"), turn late
    interaction on where the embedder gives token states and the calibration, if any, was fitted with it;
    `token_cache` is a file for their states. `attributes`, one per atom, are what filters go by (default:
    everybody's, of no source, date or label). `evidence`, a language model's, decides where the scores leave open
    whether to abstain (see `atomlora.router.second_look`; default: the scores decide). Raises StoreError when these do
    not fit together or not to the embedder.
    """

    def __init__(
        self,
        embedder: Embedder,
        embeddings: np.ndarray,
        positions: np.ndarray,
        atom_ids: Sequence[str],
        texts: Sequence[str],
        calibration: Calibration | None = None,
        settings: RouterSettings | None = None,
        *,
        cache: Path | None = None,
        documents: Sequence[str] | None = None,
        token_cache: Path | None = None,
        attributes: Sequence[AtomAttributes] | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        if len(embeddings) and embeddings.shape[1:] != (embedder.dimension,):
            raise StoreError(
                f"keys of shape {embeddings.shape} do not fit embedder {embedder.name!r} of dimension "
                f"{embedder.dimension}; open the store with the embedder it was compiled with"
            )
        self.embedder = embedder
        self.atom_ids = tuple(atom_ids)
        self.settings = settings or RouterSettings()
        wanted = calibration is None or calibration.late
        late = open_late(embedder, documents, token_cache) if wanted else None
        # coefficients fitted with late interaction mean nothing without it
        fits = calibration is not None and calibration.late == (late is not None)
        self.calibration = calibration if calibration and fits else Calibration.default(late is not None)
        self.scorer = Scorer(embeddings, positions, texts, len(self.atom_ids), self.settings, cache, late)
        self.attributes = AttributeTable(attributes or [AtomAttributes()] * len(self.atom_ids))
        if self.attributes.atoms != len(self.atom_ids):
            raise StoreError(f"attributes of {self.attributes.atoms} atoms do not fit {len(self.atom_ids)} atoms")
        self._documents = documents
        self._evidence = evidence
        self._reranker = Reranker(self.settings.reranker) if self.settings.reranker else None
        self._worlds = lru_cache(WORLDS_KEPT)(self._make_world)

    def route(self, question: str, top_k: int | None = None, where: RouteFilter | None = None) -> Route:
        """The route of one question; `top_k` (default: the setting) bounds the number of atoms, `where` says which may
        be among them (default: those that belong to no tenant).

        Raises UsageError for an empty question or `top_k` < 1.
        """
        return self.route_batch([question], top_k, where)[0]

    def route_batch(
        self, questions: Sequence[str], top_k: int | None = None, where: RouteFilter | None = None
    ) -> list[Route]:
        """Routes of several questions, each as `route` gives it; they are embedded together."""
        limit = self.settings.top_k if top_k is None else top_k
        if limit < 1:
            raise UsageError(f"--top-k must be at least 1, not {limit}")
        for number, question in enumerate(questions):
            if not question.strip():
                raise UsageError(f"question {number + 1} of {len(questions)} is empty; give a question to route")
        stripped = [question.strip() for question in questions]
        world = self._world(where)
        scored = self._scored(stripped, world)
        confidences = self._confidences(stripped, scored)
        return [
            self._route(question, candidates, confidence, limit, world)
            for question, candidates, confidence in zip(questions, scored, confidences, strict=True)
        ]

    def count(self, where: RouteFilter | None = None) -> int:
        """How many atoms pass the filter (default: belong to no tenant)."""
        world = self._world(where)
        return len(self.atom_ids) if world is None else int(world.allowed.sum())

    def remove(self, atom_ids: Sequence[str]) -> None:
        """Routes nothing to these atoms from now on, as if the store had never had them; no index is made anew. The
        store keeps them, and other routers over it do. UsageError for an id that the store has not."""
        numbers = {atom_id: number for number, atom_id in enumerate(self.atom_ids)}
        if unknown := [atom_id for atom_id in atom_ids if atom_id not in numbers]:
            raise UsageError(f"atom {unknown[0]} is not in this version of the store; name atoms by their whole ids")
        self.attributes.remove(np.array([numbers[atom_id] for atom_id in atom_ids], np.int64))

    def _world(self, where: RouteFilter | None) -> World | None:
        return self._worlds(where or RouteFilter(), self.attributes.removals)

    def _make_world(self, where: RouteFilter, _removals: int) -> World | None:
        visible, allowed = self.attributes.visible(where), self.attributes.allowed(where)
        return None if allowed is None else self.scorer.world(visible, allowed)

    def _confidences(self, questions: Sequence[str], scored: Sequence[Candidates]) -> list[float]:
        """P(covered) of each question, by a second look where the first leaves it open and something hangs on it."""
        found = [self.calibration.confidence(candidates) for candidates in scored]
        if self._evidence is None or not self.settings.abstain:
            return found
        if open_ones := [number for number, confidence in enumerate(found) if unsure(confidence)]:
            texts = [[self._document(int(atom)) for atom in scored[number].atoms[:READ]] for number in open_ones]
            evidence = self._evidence([questions[number] for number in open_ones], texts)
            for number, chance in zip(open_ones, joined([found[n] for n in open_ones], evidence), strict=True):
                found[number] = float(chance)
        return found

    def _route(
        self, question: str, candidates: Candidates, confidence: float, limit: int, world: World | None
    ) -> Route:
        silent = self.settings.abstain and confidence < self.calibration.threshold
        if silent or not len(candidates.atoms):
            return Route(question=question, atoms=(), abstained=True, confidence=confidence)
        weights = self.calibration.gates(candidates)
        kept = [
            Found(int(atom), float(weight), float(score), question)
            for place, (atom, weight, score) in enumerate(zip(candidates.atoms, weights, candidates.fused, strict=True))
            if place == 0 or weight >= self.settings.min_weight
        ]
        if self.settings.hops > 1:
            kept = self._followed(kept, world)
        atoms = tuple(RoutedAtom(id=self.atom_ids[f.atom], weight=f.weight, score=f.score) for f in kept[:limit])
        return Route(question=question, atoms=atoms, abstained=False, confidence=confidence)

    def _scored(self, questions: Sequence[str], world: World | None) -> list[Candidates]:
        """Each question's candidates, in the cross-encoder's order where there is one."""
        scored = self.scorer.score_batch(questions, *self.scorer.encode(self.embedder, questions), world)
        if (reranker := self._reranker) is None:
            return scored
        return [
            reranker.reorder(question, candidates, self._document)
            for question, candidates in zip(questions, scored, strict=True)
        ]

    def _text(self, atom: int) -> str:
        """An atom's bare text, which is its first key."""
        return self.scorer.texts[int(self.scorer.keys_of(atom)[0])]

    def _document(self, atom: int) -> str:
        return self._text(atom) if self._documents is None else self._documents[atom]

    def _followed(self, first: list[Found], world: World | None) -> list[Found]:
        """The atoms of the first round with those of further ones."""

        def ask(questions: list[str]) -> list[Candidates]:
            return self._scored(questions, world)

        return follow(first, self.settings.hops, self._text, ask, self.calibration.gates, self.settings.min_weight)
