"""No loops: an answer with atoms never says the same LOOP_TOKENS tokens twice.

A statement under an unfamiliar wording can lose its thread and repeat a phrase until the token limit. Forbidding what
would repeat a run of tokens of the answer (not of the prompt, whose words belong in an answer) lets it go on. After
Paulus et al. (arXiv 1705.04304), who forbid repeated trigrams. A statement may well hold these and longer runs: a digit
is a token, so a year said twice is four, and a rule of four tokens made "Cars: 22" behind "Passengers: 225" a 25. So
four is for statements whose steadiness is watched: there what the rule forces upon the model loses the statement, which
is then asked again under the longer rule.
"""

from __future__ import annotations

from typing import Any

import torch

LOOP_TOKENS = 8
WATCHED_LOOP_TOKENS = 4


class NoLoops:
    """A `transformers` logits processor. `answer_start`: first column that is not prompt; `rows` (B,) bool: those to
    watch, so that a row without atoms stays what the bare base says; `run`: tokens that are not said twice."""

    def __init__(self, answer_start: int, rows: torch.Tensor, run: int = LOOP_TOKENS) -> None:
        self.answer_start, self.rows, self.run = answer_start, rows, run

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`input_ids` (B, T) int64, `scores` (B, V): -inf for each token that would complete a repeated run."""
        said = input_ids[:, self.answer_start :]
        if said.shape[1] < self.run:
            return scores
        runs = said.unfold(1, self.run, 1)  # (B, windows, run)
        latest = said[:, 1 - self.run :]
        repeated = (runs[:, :, :-1] == latest[:, None, :]).all(-1) & self.rows[:, None]
        row, window = repeated.nonzero(as_tuple=True)
        scores = scores.clone()
        scores[row, runs[row, window, -1]] = -torch.inf
        return scores


def no_loops(answer_start: int, slots: torch.Tensor | None, watched: torch.Tensor | None = None) -> list[Any]:
    """The processors for a batch whose rows mount `slots` (B, k), -1 where empty; none where nothing is mounted.
    `watched` (B,) bool: rows whose steadiness is watched, under the shorter rule; a row's rule is its own, whatever it
    is decoded with."""
    if slots is None:
        return []
    mounted = (slots >= 0).any(dim=1)
    short = torch.zeros_like(mounted) if watched is None else mounted & watched
    rules = ((WATCHED_LOOP_TOKENS, short), (LOOP_TOKENS, mounted & ~short))
    return [NoLoops(answer_start, rows, run) for run, rows in rules if bool(rows.any())]
