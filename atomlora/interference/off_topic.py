"""What one wrong atom does to questions that are none of its business: KL to the bare base, and whether its answer
stays the same string.

Greedy decoding with an atom says what the base says exactly where, given the base's own words so far, its next one
stays the likeliest: so both are read off one pass of the late blocks over the base's answer. Apart from that, the
base may repeat itself, which an answer with atoms may not (see `atomlora.runtime.loops`): `repeats` tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from atomlora.bases import Base
from atomlora.interference.lab import Lab, Stack
from atomlora.prompts import chat_prompt
from atomlora.runtime.decoding import base_answers
from atomlora.runtime.loops import LOOP_TOKENS
from atomlora.training.rows import IGNORED
from atomlora.training.trunk import Example


class Changed(NamedTuple):
    """Of one question under one stack: mean KL(base || composed) per token of the base's answer, in nats, whether the
    answer stays the same, and in how many tokens it is told."""

    kl: float
    same: bool
    tokens: int


def base_examples(base: Base, questions: Sequence[str], tokens: int) -> list[Example]:
    """Each question with what the bare base answers to it, greedily, in at most `tokens` tokens."""
    answers = base_answers(base, questions, tokens)
    prompts = [chat_prompt(base.tokenizer, question) for question in questions]
    return [Example(tuple(prompt), answer) for prompt, answer in zip(prompts, answers, strict=True)]


def repeats(answer: Sequence[int]) -> bool:
    """Whether an answer says a run of LOOP_TOKENS tokens twice."""
    runs = [tuple(answer[at : at + LOOP_TOKENS]) for at in range(len(answer) - LOOP_TOKENS + 1)]
    return len(set(runs)) < len(runs)


@torch.no_grad()
def changed(lab: Lab, examples: Sequence[Example], picks: Sequence[int], stacks: Sequence[Stack]) -> list[Changed]:
    """What each of `stacks` does to the base's answer to example `picks[i]`; an empty one does nothing."""
    rows = lab.rows(examples, with_final=True)
    found: list[Changed] = [Changed(0.0, True, len(examples[pick].answer)) for pick in picks]
    busy = [number for number, stack in enumerate(stacks) if stack.atoms]
    for part, chosen, mounts in lab.batches(rows, [picks[n] for n in busy], [stacks[n] for n in busy]):
        assert chosen.final is not None
        real = chosen.targets != IGNORED
        hidden = lab.hidden(chosen, mounts)
        divergence = torch.zeros(real.shape, device=real.device)
        divergence[real] = lab.divergence(hidden[real], chosen.final[real])
        best, _ = lab.head.exact(hidden[real], chosen.targets[real])
        wrong = torch.zeros_like(real)
        wrong[real] = best != chosen.targets[real]
        means = (divergence.sum(1) / real.sum(1)).tolist()
        for at, kl, off in zip(part, means, wrong.any(1).tolist(), strict=True):
            answer = examples[picks[busy[at]]].answer
            found[busy[at]] = Changed(float(kl), not off, len(answer))
    return found


def mean_kl(found: Sequence[Changed]) -> float:
    """Mean KL per token over all answers, in nats."""
    tokens = sum(one.tokens for one in found)
    return sum(one.kl * one.tokens for one in found) / tokens if tokens else 0.0


def wrong_atoms(atoms: int, questions: int, each: int, seed: int = 0) -> list[int]:
    """`each` different atoms for every question, at random: places, question by question."""
    random = np.random.default_rng(seed)
    many = min(each, atoms)
    return [int(place) for _ in range(questions) for place in random.choice(atoms, many, replace=False)]
