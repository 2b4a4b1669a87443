"""How sure the router is that a store covers a question.

What people's questions about a store's texts score depends little on the store. What other questions score does: the
more a store holds, and the wider its topics, the more of any question some atom meets. (Log-odds of the general
questions by the default coefficients, in the median: -7 for stores of one SQuAD article, -2.5 for stores of fourteen;
of people's questions 5 in both.) So the store's general questions are set against what people's questions scored in
the stores that the default coefficients were fitted on, and the log-odds stretched and shifted until they are those of
a question that is as likely the one as the other. The store's own generated questions take no part: they are worded
like its texts and have nothing like people's tail of unclear ones, so that what is fitted to them takes people's
questions for foreign.

Source: Platt, Probabilistic Outputs for Support Vector Machines (1999), with quantiles for one of the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from atomlora.router.features import (
    DEFAULT_PEOPLE,
    DEFAULT_SCOPE,
    LATE_PEOPLE,
    LATE_SCOPE,
    PEOPLE_ALPHAS,
    scope_features,
)
from atomlora.router.logistic import fit_logistic, sigmoid
from atomlora.router.scores import Candidates

# Shares of people's questions that stand for all of them
SHARES = (np.arange(20) + 0.5) / 20
# Pull towards a slope of 1 and a shift of 0 (penalty on the squared distance): without, classes that do not overlap
# would have no end. The slope is pulled harder where it falls below FLATTEST: foreign questions score as people's do
PULL = 1.0
FLATTEST = 0.25
FOLDS = 5


class Line(NamedTuple):
    """A store's log-odds over those by the default coefficients."""

    slope: float = 1.0
    shift: float = 0.0

    def chances(self, logits: np.ndarray) -> np.ndarray:
        """P(covered), of log-odds by the default coefficients."""
        return sigmoid(self.slope * logits + self.shift)

    def coefficients(self, late: bool) -> tuple[float, float, float, float]:
        """Over `scope_features`, the intercept last."""
        dense, words, gate, intercept = LATE_SCOPE if late else DEFAULT_SCOPE
        slope, shift = self
        return slope * dense, slope * words, slope * gate, slope * intercept + shift


def fit_line(foreign: np.ndarray, late: bool) -> Line:
    """The line for a store; `foreign` (n,): default log-odds of questions that it does not cover. 1 and 0 without
    any."""
    if not len(foreign):
        return Line()
    people = people_logits(late, SHARES)
    values = np.concatenate([people, foreign])
    labels = np.arange(len(values)) < len(people)
    weights = np.where(labels, len(values) / 2 / len(people), len(values) / 2 / len(foreign))
    unit = 1.0  # of the slope: the pull on it grows with the square
    while True:
        found = fit_logistic(values[:, None] / unit, labels, np.array([unit, 0.0]), PULL, weights)
        if found[0] >= FLATTEST * unit:
            return Line(float(found[0]) / unit, float(found[1]))
        unit *= 3


def held_out(foreign: np.ndarray, late: bool) -> np.ndarray:
    """P(covered) of each of `foreign` by the line of the other folds."""
    chances = np.zeros(len(foreign))
    for fold in range(FOLDS):
        mine = np.arange(len(foreign)) % FOLDS == fold
        chances[mine] = fit_line(foreign[~mine], late).chances(foreign[mine])
    return chances


def scope_logits(some: Sequence[Candidates], late: bool) -> np.ndarray:
    """Log-odds (n,) by the default coefficients."""
    *coefficients, intercept = LATE_SCOPE if late else DEFAULT_SCOPE
    features = np.array([scope_features(candidates) for candidates in some]).reshape(len(some), 3)
    return np.asarray(features @ np.array(coefficients) + intercept)


def people_logits(late: bool, alphas: np.ndarray) -> np.ndarray:
    """Default log-odds below which shares `alphas` of people's questions lie about texts that the coefficients were not
    fitted on; between the shares that were measured, by a line."""
    measured = np.array(LATE_PEOPLE if late else DEFAULT_PEOPLE)
    logits: np.ndarray = np.interp(alphas, PEOPLE_ALPHAS, np.log(measured / (1 - measured)))
    return logits


def people_threshold(late: bool, alpha: float, line: Line | None = None) -> float:
    """The confidence that a share 1 - alpha of people's questions reach (without a line: by the default
    coefficients)."""
    return float((line or Line()).chances(people_logits(late, np.array(alpha))))
