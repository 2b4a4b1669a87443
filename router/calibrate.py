"""From scores to gates and to a confidence, learnt from the store's own questions.

Every question that keys an atom is asked as if it, and its rewordings, were not in the store (leave one out).
Of its candidates one atom is relevant and the rest are not: a logistic model of their scores gives each atom
its gate w in [0, 1], on its own, not normalised to a sum. As people word questions otherwise than machines do, it is
held close to coefficients fitted on people's questions (`atomlora.router.features`). The confidence, P(the store covers
the question), sets the store's general questions, which stand for all that it does not know, against people's
(`atomlora.router.confidence`).

The router keeps silent where that is less than even. Where a share alpha of the answerable questions would be lost by
that, the threshold is the conformal one, which a share 1 - alpha pass: of the leave-one-out questions or, without
any, of people's questions about other texts.

Source of the conformal threshold: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from atomlora.router.confidence import FOLDS, fit_line, held_out, people_threshold, scope_logits
from atomlora.router.embedder import Embedder
from atomlora.router.features import DEFAULT_GATE, DEFAULT_SCOPE, LATE_GATE, LATE_SCOPE, gate_features, scope_features
from atomlora.router.general_questions import GENERAL_QUESTIONS
from atomlora.router.late import open_late
from atomlora.router.logistic import calibration_error, fit_logistic, probabilities
from atomlora.router.scores import Candidates, Scorer
from atomlora.router.settings import RouterSettings

# Cosine from which two question keys of one atom count as the same question in other words
SIBLING_COSINE = 0.8
# Candidates per question that the gate learns from: what a route can contain, not the long tail
LEARNT_CANDIDATES = 16
# From here on a question is more likely covered than not: the threshold is never higher
EVEN = 0.5
# Pull of gates towards the defaults (penalty on the squared distance): strong, for the reason at the top
PRIOR_STRENGTH = 30.0


class Calibration(BaseModel):
    """Fitted coefficients and what they reach. JSON-able; made by `fit_calibration`.

    `gate` (3) and `scope` (4): coefficients over `gate_features` and `scope_features`, the intercept last; 3 for
    `scope` too where the store was calibrated before the first atom's gate took part, and then it takes none.
    `threshold`: confidence below which the router abstains; `alpha`: the share of answerable questions that
    may be given up for it. `late`: whether the scores it was fitted on have the part of late interaction. `stats`:
    negatives and general_abstained (the share of the general questions below the threshold), and where the
    store has questions: questions, loo_recall_at_1/4/8, loo_abstained, gate_ece, scope_ece, all from folds
    that the fit did not see.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: tuple[float, float, float] = DEFAULT_GATE
    scope: tuple[float, float, float] | tuple[float, float, float, float] = DEFAULT_SCOPE
    threshold: float = people_threshold(False, 0.05)
    alpha: float = 0.05
    late: bool = False
    stats: dict[str, float] = {}

    @classmethod
    def default(cls, late: bool, alpha: float = 0.05) -> Calibration:
        """What a store begins from, with or without late interaction."""
        threshold = people_threshold(late, alpha)
        if not late:
            return cls(threshold=threshold, alpha=alpha)
        return cls(gate=LATE_GATE, scope=LATE_SCOPE, threshold=threshold, late=True, alpha=alpha)

    def gates(self, candidates: Candidates) -> np.ndarray:
        """Gate w in [0, 1] of each candidate, (c,)."""
        return probabilities(gate_features(candidates), np.array(self.gate))

    def confidence(self, candidates: Candidates) -> float:
        """P(the store covers the question); 0 without candidates."""
        if not len(candidates.atoms):
            return 0.0
        features = scope_features(candidates)[: len(self.scope) - 1]
        return float(probabilities(features[None], np.array(self.scope))[0])


class LeftOut(NamedTuple):
    """A leave-one-out question: its key, its atom, and the keys to leave out for it (itself among them)."""

    key: int
    atom: int
    without: frozenset[int]


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
    documents: Sequence[str] | None = None,
    token_cache: Path | None = None,
    cache: Path | None = None,
) -> Calibration:
    """Gates, confidence and threshold for a store with the given keys (see `Scorer` for the three arrays).

    `questions` bool (n,) says which keys are questions (default: those that end in a question mark);
    `general` are questions outside the store; at most `limit` questions are left out in turn. `cache` as for
    `Router`, and `documents` and `token_cache` too: with these the fit is for routing with late interaction. With
    no question among the keys the default gates stay, and only confidence and threshold are the store's own.
    """
    settings = settings or RouterSettings()
    late = open_late(embedder, documents, token_cache)
    default = Calibration.default(late is not None, alpha)
    if not len(positions):
        return default
    chosen = [is_question(t) for t in texts] if questions is None else questions
    asked = left_out_questions(embeddings, positions, np.asarray(chosen, bool), limit)
    atoms = int(positions.max()) + 1 if late is None else late.atoms
    scorer = Scorer(embeddings, positions, texts, atoms, settings, cache, late)
    states = scorer.encode_tokens(embedder, [texts[q.key] for q in asked])
    pairs = [
        (q.atom, scorer.score_left_out(texts[q.key], embeddings[q.key], q.atom, q.without, tokens))
        for q, tokens in zip(asked, states, strict=True)
    ]
    inside = [(atom, candidates) for atom, candidates in pairs if len(candidates.atoms)]
    scored = scorer.score_batch(general, *scorer.encode(embedder, list(general)))
    outside = [candidates for candidates in scored if len(candidates.atoms)]

    gate = gate_table(inside, default.gate)
    logits = scope_logits(outside, default.late)
    line, foreign = fit_line(logits, default.late), held_out(logits, default.late)
    answerable = line.chances(scope_logits([candidates for _, candidates in inside], default.late))
    passing = conformal_threshold(answerable, alpha, people_threshold(default.late, alpha, line))
    threshold = min(passing, EVEN) if outside else passing
    stats = {"negatives": float(len(outside)), "general_abstained": _share(foreign < threshold)}
    if inside:
        places = np.array([_place(candidates.atoms, atom) for atom, candidates in inside])
        stats |= {
            "questions": float(len(inside)),
            "loo_recall_at_1": _share(places < 1),
            "loo_recall_at_4": _share(places < 4),
            "loo_recall_at_8": _share(places < 8),
            "loo_abstained": _share(answerable < threshold),
            "gate_ece": calibration_error(gate.held_out(), gate.labels),
            "scope_ece": calibration_error(
                np.concatenate([answerable, foreign]), np.arange(len(inside) + len(foreign)) < len(inside)
            ),
        }
    return Calibration(
        gate=(*gate.fit().tolist(),),
        scope=line.coefficients(default.late),
        threshold=threshold,
        alpha=alpha,
        late=default.late,
        stats={name: round(value, 6) for name, value in stats.items()},
    )


def conformal_threshold(confidences: np.ndarray, alpha: float, otherwise: float = 1.0) -> float:
    """The largest threshold that a new answerable question passes with probability >= 1 - alpha, given
    `confidences` of answerable ones. Where they are too few (< 1/alpha - 1) to say, `otherwise` or less."""
    allowed = int(np.floor(alpha * (len(confidences) + 1)))
    if allowed < 1:
        return float(confidences.min(initial=otherwise))
    return float(np.sort(confidences)[allowed - 1])


class Table(NamedTuple):
    """Rows to fit, with the fold of each: features (n, f), labels and folds (n,), prior f + 1
    numbers."""

    features: np.ndarray
    labels: np.ndarray
    folds: np.ndarray
    prior: tuple[float, ...]

    def fit(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Coefficients fitted to the rows of a bool mask (default: all); the prior where one class is
        absent."""
        rows = np.ones(len(self.labels), bool) if rows is None else rows
        features, labels, prior = self.features[rows], self.labels[rows], np.array(self.prior)
        if labels.all() or not labels.any():
            return prior
        useful = np.ones(features.shape[1], bool)
        while True:
            # a feature at 0 with a prior of 0 keeps the coefficient 0
            start = np.append(prior[:-1] * useful, prior[-1])
            found = fit_logistic(features * useful, labels, start, PRIOR_STRENGTH)
            if (found[:-1] >= 0).all():
                return found
            useful &= found[:-1] >= 0

    def held_out(self) -> np.ndarray:
        """Each row's probability under the fit to the other folds."""
        chances = np.zeros(len(self.labels))
        for fold in range(FOLDS):
            rows = self.folds == fold
            if rows.any():
                chances[rows] = probabilities(self.features[rows], self.fit(~rows))
        return chances


def gate_table(inside: list[tuple[int, Candidates]], prior: tuple[float, ...]) -> Table:
    """One row per candidate of a left-out question: is it the atom that the question was written for?

    General questions stay out: gates are for questions that the router answers; silence is the threshold's
    part.
    """
    parts = [gate_features(candidates)[:LEARNT_CANDIDATES] for _, candidates in inside]
    labels = [candidates.atoms[:LEARNT_CANDIDATES] == atom for atom, candidates in inside]
    folds = [np.full(len(part), atom % FOLDS) for part, (atom, _) in zip(parts, inside, strict=True)]
    features = np.concatenate([np.zeros((0, len(prior) - 1)), *parts])
    label = np.concatenate([np.zeros(0, bool), *labels])
    fold = np.concatenate([np.zeros(0, int), *folds])
    return Table(features, label, fold, prior)


def _place(atoms: np.ndarray, atom: int) -> int:
    """Rank of the atom among the candidates, from 0; their number and more where it is absent."""
    found = np.flatnonzero(atoms == atom)
    return int(found[0]) if len(found) else 1_000_000


def _share(mask: np.ndarray) -> float:
    return float(np.mean(mask)) if len(mask) else 1.0
