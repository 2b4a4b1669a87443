"""`--rank auto`: the smallest rank that holds the longest atom of a run.

What `bench/capacity.py` found with the embedded base and random digits, which nothing but the adapter can hold
(bench/RESULTS.md, "Capacity"): rank 2 recalls 550 tokens in full, rank 1 fails now and then even on a dozen. Beyond
what was measured, more tokens get more rank in proportion, as parameters grow with rank: an assumption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from atomlora.compiler.given import Given
from atomlora.prompts import answer_ids
from atomlora.settings import CompileSettings
from atomlora.store.manifest import Manifest
from atomlora.wordings import training_wordings

RANKS = (2, 4, 8, 16)
TOKENS_PER_RANK = 275


def rank_for(tokens: int) -> int:
    """The smallest of RANKS that holds an atom of so many answer tokens; the largest where none does."""
    return next((rank for rank in RANKS if rank * TOKENS_PER_RANK >= tokens), RANKS[-1])


def longest_atom(given: Given, tokenizer: Any) -> int:
    """Tokens that the atom with most to learn must say: its different answers, each with its end token."""
    return max((sum(len(answer_ids(tokenizer, one)) for one in said) for said in _answers(given)), default=0)


def with_rank(settings: CompileSettings, given: Given, head: Manifest | None, tokenizer: Any) -> CompileSettings:
    """The settings with the rank that they leave to the run. A store keeps the rank of its version `head` where that
    is enough: one edited sentence must not train all atoms anew."""
    if not settings.auto_rank:
        return settings
    rank = rank_for(longest_atom(given, tokenizer))
    kept = 0 if head is None else int(head.settings.get("adapter", {}).get("rank", 0))
    return settings.model_copy(update={"adapter": settings.adapter.model_copy(update={"rank": max(rank, kept)})})


def _answers(given: Given) -> Iterator[set[str]]:
    """What each atom will be trained to say."""
    for number, draft in enumerate(given.drafts):
        asked = replace(draft, questions=given.questions.get(number, ()))
        yield {wording.answer for wording in training_wordings(asked)}
