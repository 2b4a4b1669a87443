"""Steadiness: whether a statement is still what its atom was trained to say.

Training takes an atom for done when every token of its answers has p > 0.8, and greedy recall needs p > 0.5 (the
Parametric Memory Law). So a token below one half says that the wording of the question has thrown the atom off: what
follows is a guess of the base, often a wrong number in the right sentence. Decoding stops there; `atomlora.statements`
says what is done then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class Steadiness:
    """A `transformers` logits processor, the last of a greedy decoding, that runs `processors` first.

    `least` (B,): probability, under the model's own distribution, below which a token loses its row (0: never);
    `ends`: ids that end an answer. `lost` (B,) bool: rows that chose such a token before their end. `whole`: what must
    not fall below `least` is the product of a row's probabilities so far, the end's included, and not each of them.
    """

    def __init__(
        self, least: torch.Tensor, ends: Sequence[int], processors: Sequence[Any] = (), whole: bool = False
    ) -> None:
        self.least, self.processors = least, processors
        self._watched = least > 0
        self._so_far = torch.ones_like(least) if whole else None
        self.lost = torch.zeros_like(self._watched)
        self._ends = torch.tensor(list(ends), device=least.device)
        self._begun = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`input_ids` (B, T) int64, `scores` (B, V) logits; returns what the `processors` make of the scores."""
        if self._begun:
            self._watched &= ~torch.isin(input_ids[:, -1], self._ends)
        self._begun = True
        processed = scores
        for process in self.processors:
            processed = process(input_ids, processed)
        if not bool(self._watched.any()):
            return processed
        chosen = processed.argmax(dim=-1, keepdim=True)
        logs = scores.gather(1, chosen).float() - scores.float().logsumexp(dim=-1, keepdim=True)
        chances = logs[:, 0].exp()
        if self._so_far is not None:
            chances = self._so_far = self._so_far * chances
        self.lost |= self._watched & (chances < self.least)
        return processed


class UntilLost:
    """A `transformers` stopping criterion: ends each row that is lost."""

    def __init__(self, watch: Steadiness) -> None:
        self.watch = watch

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_settings: Any) -> torch.Tensor:
        return self.watch.lost.clone()
