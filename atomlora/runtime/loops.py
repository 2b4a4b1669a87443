"""No loops: an answer with atoms never says the same LOOP_TOKENS tokens twice.

A statement under an unfamiliar wording can lose its thread and repeat a phrase until the token limit. Forbidding what
would repeat a run of tokens of the answer (not of the prompt, whose words belong in an answer) lets it go on: on the
sample corpus answers that hold the golden one went from 80.8 to 82.4 %. After Paulus et al. (arXiv 1705.04304), who
forbid repeated trigrams, which a statement may well hold.
"""

from __future__ import annotations

from typing import Any

import torch

LOOP_TOKENS = 4


class NoLoops:
    """A `transformers` logits processor. `answer_start`: first column that is not prompt; `rows` (B,) bool: those to
    watch, so that a row without atoms stays what the bare base says."""

    def __init__(self, answer_start: int, rows: torch.Tensor) -> None:
        self.answer_start, self.rows = answer_start, rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`input_ids` (B, T) int64, `scores` (B, V): -inf for each token that would complete a repeated run."""
        said = input_ids[:, self.answer_start :]
        if said.shape[1] < LOOP_TOKENS:
            return scores
        runs = said.unfold(1, LOOP_TOKENS, 1)  # (B, windows, LOOP_TOKENS)
        latest = said[:, 1 - LOOP_TOKENS :]
        repeated = (runs[:, :, :-1] == latest[:, None, :]).all(-1) & self.rows[:, None]
        row, window = repeated.nonzero(as_tuple=True)
        scores = scores.clone()
        scores[row, runs[row, window, -1]] = -torch.inf
        return scores


def no_loops(answer_start: int, slots: torch.Tensor | None) -> list[Any]:
    """The processors for a batch whose rows mount `slots` (B, k), -1 where empty; none where nothing is mounted."""
    rows = None if slots is None else (slots >= 0).any(dim=1)
    return [] if rows is None or not bool(rows.any()) else [NoLoops(answer_start, rows)]
