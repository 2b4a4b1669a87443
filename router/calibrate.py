"""From scores to gates and to a confidence, learnt from the store's own questions.

Every question that keys an atom is asked as if it, and its rewordings, were not in the store (leave one out).
Of its candidates one atom is relevant and the rest are not: a logistic model of their scores gives each atom
its gate w in [0, 1], on its own, not normalised to a sum. General questions stand for all that the store does
not know: a second model gives P(the store covers the question), and the threshold below which the router
keeps silent is the conformal one, that lets a share 1 - alpha of the leave-one-out questions pass.

Source of the threshold: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005), split
conformal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from atomlora.router.embedder import Embedder
from atomlora.router.general_questions import GENERAL_QUESTIONS
from atomlora.router.logistic import calibration_error, fit_logistic, probabilities
from atomlora.router.scores import Candidates, Scorer
from atomlora.router.settings import RouterSettings

# Coefficients (features in the order of `gate_features` and `scope_features`, the intercept last) and
# threshold fitted on SQuAD sentences with human questions: what a store too small to fit its own begins from.
DEFAULT_GATE = (1.06, 0.67, 0.55, -0.91)
DEFAULT_SCOPE = (0.67, 3.37, 0.23, 1.73)
DEFAULT_THRESHOLD = 0.44
# Cosine from which two question keys of one atom count as the same question in other words
SIBLING_COSINE = 0.8
# Candidates per question that the gate learns from: what a route can contain, not the long tail
LEARNT_CANDIDATES = 16
FOLDS = 5
# Pull towards the defaults; counts like about this many questions
PRIOR_STRENGTH = 1.0


class Calibration(BaseModel):
    """Fitted coefficients and what they reach. JSON-able; made by `fit_calibration`.

    `gate` (4) and `scope` (4): coefficients over `gate_features` and `scope_features`, the intercept last.
    `threshold`: confidence below which the router abstains; `alpha`: the share of answerable questions given
    up for it. `stats`: questions, negatives, loo_recall_at_1/4/8, loo_abstained, general_abstained, gate_ece,
    scope_ece, all from folds that the fit did not see. No stats where there was nothing to fit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: tuple[float, ...] = DEFAULT_GATE
    scope: tuple[float, ...] = DEFAULT_SCOPE
    threshold: float = DEFAULT_THRESHOLD
    alpha: float = 0.05
    stats: dict[str, float] = {}

    def gates(self, candidates: Candidates) -> np.ndarray:
        """Gate w in [0, 1] of each candidate, (c,)."""
        return probabilities(gate_features(candidates), np.array(self.gate))

    def confidence(self, candidates: Candidates) -> float:
        """P(the store covers the question); 0 without candidates."""
        if not len(candidates.atoms):
            return 0.0
        return float(probabilities(scope_features(candidates)[None], np.array(self.scope))[0])


class LeftOut(NamedTuple):
    """A leave-one-out question: its key, its atom, and the keys to leave out for it (itself among them)."""

    key: int
    atom: int
    without: frozenset[int]


def gate_features(candidates: Candidates) -> np.ndarray:
    """float64 (c, 3) about unit scale: lead of the fused score over the best other atom, dense, lexical part."""
    fused = candidates.fused.astype(np.float64)
    rivals = np.full(len(fused), fused[0] if len(fused) else 0.0)
    rivals[:1] = fused[1] if len(fused) > 1 else fused[:1]
    return np.column_stack(
        [
            np.clip(fused - rivals, -0.5, 0.5) / 0.1,
            (candidates.dense_max - 0.6) / 0.15,
            (candidates.lexical - 0.4) / 0.2,
        ]
    )


def scope_features(candidates: Candidates) -> np.ndarray:
    """float64 (3,) about unit scale: lead of the best atom over the next, largest dense and lexical scores."""
    fused = candidates.fused
    lead = float(fused[0] - fused[1]) if len(fused) > 1 else 0.0
    return np.array(
        [
            min(lead, 0.5) / 0.1,
            (float(candidates.dense_max.max()) - 0.6) / 0.15,
            (float(candidates.lexical.max()) - 0.4) / 0.2,
        ]
    )


def is_question(text: str) -> bool:
    """Whether a key text reads as a question: how questions are told from statements when nobody says."""
    return text.rstrip().endswith(("?", "？", "؟"))


def left_out_questions(
    embeddings: np.ndarray, positions: np.ndarray, questions: np.ndarray, limit: int
) -> list[LeftOut]:
    """Up to `limit` questions, evenly over the keys, each with its rewordings (of the same atom).

    A question whose atom would have no key left is skipped. `questions` bool (n,): which keys are questions.
    """
    numbers = np.flatnonzero(questions)
    if len(numbers) > limit:
        numbers = numbers[np.linspace(0, len(numbers) - 1, limit).astype(int)]
    order = np.argsort(positions, kind="stable")
    found = []
    for key in numbers:
        atom = int(positions[key])
        first, last = np.searchsorted(positions, [atom, atom + 1], sorter=order)
        own = order[first:last]
        near = questions[own] & (embeddings[own] @ embeddings[key] >= SIBLING_COSINE)
        without = frozenset(int(k) for k in own[near]) | {int(key)}
        if len(without) < len(own):
            found.append(LeftOut(int(key), atom, without))
    return found


def fit_calibration(
    embedder: Embedder,
    embeddings: np.ndarray,
    positions: np.ndarray,
    texts: Sequence[str],
    settings: RouterSettings | None = None,
    *,
    questions: np.ndarray | None = None,
    general: Sequence[str] = GENERAL_QUESTIONS,
    alpha: float = 0.05,
    limit: int = 1000,
) -> Calibration:
    """Gates, confidence and threshold for a store with the given keys (see `Scorer` for the three arrays).

    `questions` bool (n,) says which keys are questions (default: those that end in a question mark);
    `general` are questions outside the store; at most `limit` questions are left out in turn. With no usable
    question the defaults come back as they are; with few, coefficients close to them.
    """
    settings = settings or RouterSettings()
    chosen = (
        np.array([is_question(t) for t in texts], bool) if questions is None else np.asarray(questions, bool)
    )
    asked = left_out_questions(embeddings, positions, chosen, limit)
    if not asked:
        return Calibration(alpha=alpha)
    scorer = Scorer(embeddings, positions, texts, int(positions.max()) + 1, settings)
    inside = [scorer.score_left_out(texts[q.key], embeddings[q.key], q.atom, q.without) for q in asked]
    outside = [c for c in scorer.score_batch(general, embedder.encode(list(general))) if len(c.atoms)]
    kept = [i for i, c in enumerate(inside) if len(c.atoms)]
    atoms = np.array([asked[i].atom for i in kept])
    inside = [inside[i] for i in kept]

    gate = GateTable.of(inside, atoms, outside)
    scope = ScopeTable.of(inside, atoms, outside)
    held_gate, held_scope = gate.held_out(), scope.held_out()
    answerable = held_scope[: len(inside)]
    threshold = conformal_threshold(answerable, alpha)
    ranks = [int(np.flatnonzero(np.append(c.atoms, a) == a)[0]) for c, a in zip(inside, atoms, strict=True)]
    missed = [bool(a not in c.atoms) for c, a in zip(inside, atoms, strict=True)]
    places = np.where(missed, np.iinfo(np.int64).max, ranks)
    stats = {
        "questions": float(len(inside)),
        "negatives": float(len(outside)),
        "loo_recall_at_1": float(np.mean(places < 1)),
        "loo_recall_at_4": float(np.mean(places < 4)),
        "loo_recall_at_8": float(np.mean(places < 8)),
        "loo_abstained": float(np.mean(answerable < threshold)),
        "general_abstained": float(np.mean(held_scope[len(inside) :] < threshold)) if outside else 1.0,
        "gate_ece": calibration_error(held_gate, gate.labels),
        "scope_ece": calibration_error(held_scope, scope.labels),
    }
    return Calibration(
        gate=tuple(gate.fit().tolist()),
        scope=tuple(scope.fit().tolist()),
        threshold=threshold,
        alpha=alpha,
        stats={name: round(value, 6) for name, value in stats.items()},
    )


def conformal_threshold(confidences: np.ndarray, alpha: float) -> float:
    """The largest threshold that a new answerable question passes with probability >= 1 - alpha, given
    `confidences` of answerable questions. Where there are too few (< 1/alpha - 1) to say, no more than the
    default."""
    allowed = int(np.floor(alpha * (len(confidences) + 1)))
    if allowed < 1:
        return float(min(DEFAULT_THRESHOLD, confidences.min(initial=DEFAULT_THRESHOLD)))
    return float(np.sort(confidences)[allowed - 1])


class Table(NamedTuple):
    """Rows to fit and the fold of each; folds keep an atom's questions together."""

    features: np.ndarray
    labels: np.ndarray
    folds: np.ndarray
    weights: np.ndarray
    prior: tuple[float, ...]

    def fit(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Coefficients fitted to the rows of a bool mask (default: all)."""
        rows = np.ones(len(self.labels), bool) if rows is None else rows
        return fit_logistic(
            self.features[rows], self.labels[rows], np.array(self.prior), PRIOR_STRENGTH, self.weights[rows]
        )

    def held_out(self) -> np.ndarray:
        """Each row's probability under the fit to the other folds."""
        chances = np.zeros(len(self.labels))
        for fold in range(FOLDS):
            rows = self.folds == fold
            if rows.any():
                chances[rows] = probabilities(self.features[rows], self.fit(~rows))
        return chances


class GateTable:
    """One row per candidate: is it the atom that the question was written for?"""

    @staticmethod
    def of(inside: list[Candidates], atoms: np.ndarray, outside: list[Candidates]) -> Table:
        features, labels, folds = [], [], []
        for number, candidates in enumerate(inside + outside):
            rows = gate_features(candidates)[:LEARNT_CANDIDATES]
            atom = int(atoms[number]) if number < len(inside) else -1
            features.append(rows)
            labels.append(candidates.atoms[:LEARNT_CANDIDATES] == atom)
            folds.append(np.full(len(rows), (atom if atom >= 0 else number) % FOLDS))
        label = np.concatenate(labels)
        return Table(
            np.concatenate(features), label, np.concatenate(folds), np.ones(len(label)), DEFAULT_GATE
        )


class ScopeTable:
    """One row per question: does the store cover it? The two classes weigh the same."""

    @staticmethod
    def of(inside: list[Candidates], atoms: np.ndarray, outside: list[Candidates]) -> Table:
        features = np.array([scope_features(c) for c in inside + outside])
        labels = np.arange(len(features)) < len(inside)
        folds = np.concatenate([atoms % FOLDS, np.arange(len(outside)) % FOLDS])
        share = len(labels) / 2
        weights = np.where(labels, share / max(len(inside), 1), share / max(len(outside), 1))
        return Table(features, labels, folds, weights, DEFAULT_SCOPE)
