"""A second look at questions of which the scores do not tell whether the store covers them.

To a language model a question about a text is far likelier behind that text than alone; one that only shares a name
with it is hardly so. This evidence, log p(question | text) - log p(question) in nats, is the logarithm of a likelihood
ratio, so it adds to the log-odds of the confidence, each with a coefficient. It needs a model, which is handed in
(`Evidence`), and a pass over the texts of the first atoms, so only questions with a confidence in `UNSURE` are looked
at again.

Sources: Ponte and Croft, A Language Modeling Approach to Information Retrieval (1998); Sachan et al., Improving Passage
Retrieval with Zero-Shot Question Generation (arXiv 2204.07496), for a language model as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from atomlora.router.logistic import sigmoid

# Confidences between which a question is looked at again: outside of them the look does not change who answers
UNSURE = (0.1, 0.95)
# First atoms whose texts are read; the most telling one counts
READ = 2
# Over the log-odds of the confidence and the evidence in nats; intercept. By bench/look_fit.py, of
# SmolLM2-135M-Instruct and people's questions about SQuAD's first sixteen titles, like the first look's coefficients
COEFFICIENTS = (0.94, 0.19)
INTERCEPT = -3.35


class Evidence(Protocol):
    """What a language model says of questions and texts."""

    def __call__(self, questions: Sequence[str], texts: Sequence[Sequence[str]]) -> Sequence[float]:
        """Of each question, the largest log p(question | text) - log p(question) in nats over its texts (one or
        more)."""


def unsure(confidence: float) -> bool:
    """Whether a question of this confidence is looked at again."""
    low, high = UNSURE
    return low < confidence < high


def joined(confidences: Sequence[float], evidence: Sequence[float]) -> np.ndarray:
    """P(the store covers the question) by both, (n,); `confidences` lie strictly between 0 and 1."""
    chances = np.asarray(confidences, float)
    logits = np.log(chances / (1 - chances))
    of_confidence, of_evidence = COEFFICIENTS
    return sigmoid(of_confidence * logits + of_evidence * np.asarray(evidence, float) + INTERCEPT)
