"""Writing and scoring single lines after shared beginnings, on top of PrefixDecoder.

A *stem* is an atom's prefix with one suffix ("Answer: ...", up to "Question:"). It is fed once: every line
that continues it, drawn or scored, forks it and feeds only its own tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from atomlora.questions.decoder import PrefixDecoder, Prefixes, Rows, log_shares
from atomlora.questions.prompts import question_target, squeeze, token_ids
from atomlora.questions.sampling import sample, stop_ids

_SCORE_ROWS = 96  # 150 MB of K/V at 32 tokens a row with the embedded base
# Fewer rows than this share of a batch are moved together; before that the finished ones rest in place.
_CROWDED = 0.75
_ROOM = 12  # tokens; most lines are done within one or two such pieces of memory
_GRACE = 7  # of 336 questions on the sample, none that passed had been this far behind


@dataclass(frozen=True)
class Stems:
    """R stems of `prefixes`: their K/V and `logits` (R, vocabulary) float32 for the first token of a line."""

    prefixes: Prefixes
    rows: Rows
    logits: torch.Tensor


class LineWriter:
    """Lines end at the end token or at any token with a line break; both count into their scores."""

    def __init__(self, decoder: PrefixDecoder, tokenizer: Any) -> None:
        self._decoder, self._tokenizer = decoder, tokenizer
        self._stops = stop_ids(tokenizer)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefixes:
        """K/V of each prompt's token ids (at least one)."""
        return self._decoder.prefill(prompts)

    def stems(self, prefixes: Prefixes, atom: Sequence[int], suffixes: Sequence[str]) -> Stems:
        """One stem for each suffix (at least one) after the prefix number `atom`."""
        asked = [token_ids(self._tokenizer, suffix) for suffix in suffixes]
        rows = self._decoder.rows(prefixes, atom, max(len(part) for part in asked))
        return Stems(prefixes, rows, self._decoder.extend(prefixes, rows, asked))

    def lines(
        self,
        stems: Stems,
        which: Sequence[int],
        limit: int,
        draws: np.ndarray | None = None,
        hopeless: Callable[[int, str], bool] | None = None,
        floor: float = -math.inf,
    ) -> list[tuple[str, float]]:
        """One line of at most `limit` tokens for each stem in `which` and its mean log-probability per token.

        `draws` (rows, limit) in [0, 1) are the random numbers of sampled rows; a NaN row decodes greedily.
        `hopeless(row, begun)` is asked whenever a word is complete; where it says True, the row ends there.
        It also ends where its mean would stay under `floor` even if the next 7 tokens were certain.
        """
        if not which:
            return []
        written: list[list[int]] = [[] for _ in which]
        begun = [""] * len(which)
        sums, counts = [0.0] * len(which), [0] * len(which)
        rows = stems.rows.fork(which, _ROOM)
        logits = stems.logits[torch.tensor(list(which), device=stems.logits.device)]
        places = list(range(len(which)))  # which line each of `rows` is
        alive = list(places)  # which line each row of `logits` is
        for step in range(limit):
            tokens = self._pick(logits, None if draws is None else draws[alive, step])
            going = {}
            for row, token, value in zip(alive, tokens.tolist(), log_shares(logits, tokens).tolist(), strict=True):
                sums[row] += value
                counts[row] += 1
                if token not in self._stops and sums[row] >= floor * (counts[row] + _GRACE):
                    written[row].append(token)
                    going[row] = token
            if hopeless is not None and going:
                for row, text in zip(list(going), self._texts([written[row] for row in going]), strict=True):
                    complete = text.rpartition(" ")[0]
                    if complete != begun[row]:
                        begun[row] = complete
                        if hopeless(row, complete):
                            del going[row]
            if not going or step == limit - 1:
                break
            if rows.full or len(going) < _CROWDED * len(places):
                rows = rows.fork([at for at, row in enumerate(places) if row in going], _ROOM)
                places = list(going)
            alive = list(going)
            logits = self._decoder.extend(
                stems.prefixes, rows, [[going[row]] if row in going else [] for row in places]
            )
        scores = [total / count for total, count in zip(sums, counts, strict=True)]
        return list(zip(map(squeeze, self._texts(written)), scores, strict=True))

    def scores(self, stems: Stems, which: Sequence[int], lines: Sequence[str]) -> list[float]:
        """Mean log-probability per token of each given question after each stem in `which`."""
        targets = [token_ids(self._tokenizer, question_target(line)) for line in lines]
        results = []
        for start in range(0, len(targets), _SCORE_ROWS):
            part, chosen = targets[start : start + _SCORE_ROWS], which[start : start + _SCORE_ROWS]
            rows = stems.rows.fork(chosen, max(map(len, part)))
            first = stems.logits[torch.tensor(list(chosen), device=stems.logits.device)]
            sums = self._decoder.log_probabilities(stems.prefixes, rows, first, part)
            results += [total / len(target) for total, target in zip(sums, part, strict=True)]
        return results

    def _texts(self, lines: Sequence[Sequence[int]]) -> list[str]:
        return list(self._tokenizer.batch_decode(lines, skip_special_tokens=True))

    def _pick(self, logits: torch.Tensor, draws: np.ndarray | None) -> torch.Tensor:
        """The next token (R,) of each row: the likeliest, or the drawn one where its draw is a number."""
        picked = logits.argmax(-1)
        if draws is not None and not np.isnan(draws).all():
            at = torch.tensor(np.flatnonzero(~np.isnan(draws)), device=logits.device)
            numbers = torch.tensor(draws[~np.isnan(draws)], dtype=torch.float32, device=logits.device)
            picked[at] = sample(logits[at], numbers)
        return picked
