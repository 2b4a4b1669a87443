"""Logistic regression by Newton steps, drawn towards prior coefficients, and how well its probabilities are
calibrated.

A prior instead of zero makes one mechanism of fitting and of defaults: with no data the result is the prior,
with little data close to it.
"""

from __future__ import annotations

import numpy as np


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    result: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * values))
    return result


def probabilities(features: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """(n,) in [0, 1] from features (n, f) and coefficients (f + 1,), the intercept last."""
    return sigmoid(features @ coefficients[:-1] + coefficients[-1])


def fit_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    prior: np.ndarray,
    strength: float = 1.0,
    weights: np.ndarray | None = None,
    steps: int = 50,
) -> np.ndarray:
    """Coefficients (f + 1,) that minimise weighted log loss + strength / 2 * |coefficients - prior|^2.

    `features` (n, f), `labels` (n,) 0 or 1, `prior` (f + 1,). Each Newton step is halved until the loss does
    not rise.
    """
    design = np.column_stack([features, np.ones(len(features))]).astype(np.float64)
    weights = np.ones(len(design)) if weights is None else np.asarray(weights, np.float64)
    labels = np.asarray(labels, np.float64)

    def loss(at: np.ndarray) -> float:
        margin = design @ at
        return float(weights @ (np.logaddexp(0, margin) - labels * margin) + strength / 2 * np.sum((at - prior) ** 2))

    current = np.asarray(prior, np.float64).copy()
    value = loss(current)
    for _ in range(steps):
        chance = sigmoid(design @ current)
        gradient = design.T @ (weights * (chance - labels)) + strength * (current - prior)
        curvature = (design.T * (weights * chance * (1 - chance))) @ design + strength * np.eye(len(current))
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-6 and (reached := loss(current - size * step)) > value:
            size /= 2
        if size <= 1e-6 or value - reached < 1e-9 * (1 + abs(value)):
            break
        current, value = current - size * step, reached
    return current


def calibration_error(chances: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: mean |share of ones - mean chance| over equal-width bins, weighted by their
    counts.

    Source: Naeini, Cooper and Hauskrecht, Obtaining Well Calibrated Probabilities Using Bayesian Binning
    (2015).
    """
    if not len(chances):
        return 0.0
    places = np.minimum((chances * bins).astype(int), bins - 1)
    error = 0.0
    for place in range(bins):
        inside = places == place
        if inside.any():
            error += float(inside.mean()) * abs(float(labels[inside].mean()) - float(chances[inside].mean()))
    return error
