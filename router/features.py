"""What gates and confidence are judged by, and the coefficients that a store begins from.

Gates look only at how an atom stands against the others. Absolute scores would fit the store's own questions
better and people's worse: a machine words a question like the text it read, so on leave-one-out questions
every score is higher than people's wordings ever reach. Confidence has to look at absolute scores, since any
question has a best atom; how far that one stands out joins in, for near misses: what a question about the same topic
finds scores high, and so does much else.
"""

from __future__ import annotations

import numpy as np

from atomlora.router.logistic import probabilities
from atomlora.router.scores import Candidates

# Fitted on people's questions about eight SQuAD articles, by sentence and by passage (3.6k keys, 756
# questions), and the general questions; the order is that of the features, the intercept last.
DEFAULT_GATE = (1.43, 1.17, -2.02)
# The same with late interaction, whose scores spread wider
LATE_GATE = (0.79, 0.34, -1.75)
# Fitted by bench/router_fit.py on people's questions about SQuAD's first sixteen articles; the order is that of
# `scope_features`
DEFAULT_SCOPE = (2.15, 0.88, 0.77, 2.13)
LATE_SCOPE = (1.69, 1.52, 0.62, 1.98)
# By the same, for articles that the fit did not see: by alpha, the confidence below which a share alpha of people's
# questions lies
PEOPLE_ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
DEFAULT_PEOPLE = (0.322, 0.458, 0.642, 0.849, 0.952, 0.98, 0.9942, 0.9985, 0.9997)
LATE_PEOPLE = (0.321, 0.411, 0.723, 0.887, 0.961, 0.984, 0.9949, 0.9984, 0.9997)
# A small store is scored as if it had rivals: this many, with the score that on-topic rivals typically get.
RIVALS = 24


def gate_features(candidates: Candidates) -> np.ndarray:
    """float64 (c, 2) about unit scale: the fused score's lead over the best other atom, and over the
    also-rans."""
    fused = candidates.fused.astype(np.float64)
    field = np.sort(np.append(fused, np.full(max(RIVALS - len(fused), 1), candidates.rival)))[::-1][:RIVALS]
    best = fused.max(initial=candidates.rival)
    second = field[1] if len(fused) and best == fused[0] else field[0]
    rivals = np.full(len(fused), max(best, field[0]))
    rivals[:1] = second
    lead = np.clip(fused - rivals, -0.5, 0.5)
    return np.column_stack([lead / 0.1, (fused - field[4:].mean()) / 0.2])


def scope_features(candidates: Candidates) -> np.ndarray:
    """float64 (3,) about unit scale: the largest dense score; the largest by late interaction or, without
    it, the largest lexical one (which says nothing more once late interaction has spoken); the first atom's
    gate by the default coefficients, so that confidence does not depend on the gates that a store fits."""
    dense = (float(candidates.dense_max.max()) - 0.6) / 0.15
    if candidates.late is not None:
        words, gate = (float(candidates.late.max()) - 0.6) / 0.15, LATE_GATE
    else:
        words, gate = (float(candidates.lexical.max()) - 0.4) / 0.2, DEFAULT_GATE
    first = float(probabilities(gate_features(candidates)[:1], np.array(gate))[0])
    return np.array([dense, words, (first - 0.5) / 0.25])
