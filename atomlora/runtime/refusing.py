"""A refusal that was trained: how probable it is, and what is decoded where it is not given."""

from __future__ import annotations

from typing import Any

import torch


class Refusing:
    """A `transformers` logits processor and stopping criterion of a batch's decoding.

    `token` at `step` (0: the first of the answer) is where a refusal and an answer part. A row whose probability of it
    is `limit` or more, under the model's own distribution, ends there; any other answers, for that token is barred.
    `refused` (B,) bool: which rows those are, once the step was decoded.
    """

    def __init__(self, step: int, token: int, limit: float) -> None:
        self.step, self.token, self.limit = step, token, limit
        self._chance: torch.Tensor | None = None
        self.refused: torch.Tensor | None = None
        self._at = self._rows = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` (B, V) logits, with the refusal barred at its step."""
        at, self._at, self._rows = self._at, self._at + 1, len(scores)
        if at != self.step:
            return scores
        self._chance = scores.float().softmax(dim=-1)[:, self.token]
        self.refused = self._chance >= self.limit
        barred = scores.clone()
        barred[:, self.token] = -torch.inf
        return barred

    def heard(self) -> list[tuple[float, bool]]:
        """Of each row the probability of the refusal, and whether it was refused, after decoding; none of a batch whose
        answers all ended before the step."""
        if self._chance is None or self.refused is None:
            return [(0.0, False)] * self._rows
        return list(zip(self._chance.tolist(), self.refused.tolist(), strict=True))


class UntilRefused:
    """A `transformers` stopping criterion: ends each row that is refused."""

    def __init__(self, refusing: Refusing) -> None:
        self.refusing = refusing

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_settings: Any) -> torch.Tensor:
        refused = self.refusing.refused
        nobody = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        return nobody if refused is None else refused.clone()
