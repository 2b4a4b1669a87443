"""Losses over candidate tokens.

Of the weights that an answer token touches in a training step of a small base, the LM head is the largest part. The
softmax is therefore taken over a candidate set: the likeliest tokens of the vocabulary at large (a byte-pair
vocabulary is ordered by merges, so its first ids are its most frequent tokens), and for each atom its own answers'
tokens and the bare base's likeliest at their positions. What is learnt lifts some tokens outside the set as well,
and left alone half of all answers would lose to one of them; so every few steps the full head names the likeliest
tokens as they are now, and these join. An atom is done only when its answers are greedy under the full head
(`exact`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atomlora.bases import finished_logits
from atomlora.errors import BaseModelError
from atomlora.training.rows import LateRows

SHARED_TOKENS = 1024
LIKELY_TOKENS = 8
HEAD_COLUMNS = 256  # of the full head at once: more only costs memory
LOSS_TOKENS = 16  # so that silence, a mean, weighs against some 16 tokens still to be learnt
_NEVER = -1e9
_SAME_LOGITS = 0.02  # of their length: what bfloat16 may differ by


@dataclass(frozen=True)
class Candidates:
    """Per row: head rows (B, C, d), bias (B, C) that masks repeats, and where each target stands (B, T) in
    [shared tokens, own candidates]; `teacher` (B, T, S + C) are the bare base's log-probabilities on the same set."""

    head: Tensor
    bias: Tensor
    target: Tensor
    teacher: Tensor | None = None

    def narrowed(self, picked: Tensor, columns: Tensor) -> Candidates:
        """Those of the `columns` (R, C; -1 is padding) of the rows `picked` (R,)."""
        return Candidates(self.head[picked], self.bias[picked], self.target[picked[:, None], columns.clamp(min=0)])


class CandidateHead:
    """The base's LM head, restricted to candidates in training and whole for the exact check."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.weight: Tensor = model.get_output_embeddings().weight
        self.config = model.config
        self.shared = min(SHARED_TOKENS, self.weight.shape[0])

    @torch.no_grad()
    def likely(self, hidden: Tensor, many: int = LIKELY_TOKENS) -> Tensor:
        """The full head's likeliest tokens at each of N columns (N, d): (N, many) int64."""
        many = min(many, self.weight.shape[0])
        return torch.cat([self.full_logits(part).topk(many, dim=-1).indices for part in hidden.split(HEAD_COLUMNS)])

    @torch.no_grad()
    def candidates(self, rows: LateRows, tokens: Tensor, with_teacher: bool = False) -> Candidates:
        """Candidate set of each row: its targets and `tokens` (B, L) int64 (IGNORED: none), each once."""
        tokens = torch.cat([rows.targets, tokens], dim=1)
        tokens = tokens.sort(dim=1).values
        repeat = torch.zeros_like(tokens, dtype=torch.bool)
        repeat[:, 1:] = tokens[:, 1:] == tokens[:, :-1]
        dropped = repeat | (tokens < self.shared)  # IGNORED is negative and goes with the shared ones
        # Bring what stays to the front, to cut the padding.
        width = max(int((~dropped).sum(1).max()), 1)
        order = dropped.int().argsort(dim=1, stable=True)[:, :width]
        tokens, dropped = tokens.gather(1, order), dropped.gather(1, order)
        bias = torch.where(dropped, _NEVER, 0.0).to(self.weight.dtype)
        kept = torch.where(dropped, -1, tokens)
        match = kept[:, None, :] == rows.targets[:, :, None]
        own = match.int().argmax(-1) + self.shared
        target = torch.where(rows.targets < self.shared, rows.targets.clamp(min=0), own)
        head = self.weight[tokens.clamp(min=0)]
        teacher = None
        if with_teacher:
            assert rows.final is not None
            teacher = torch.log_softmax(self.logits(rows.final, Candidates(head, bias, target, None)).float(), dim=-1)
        return Candidates(head, bias, target, teacher)

    def logits(self, hidden: Tensor, candidates: Candidates) -> Tensor:
        """(B, T, d) -> (B, T, S + C)."""
        shared = hidden @ self.weight[: self.shared].T
        own = torch.bmm(hidden, candidates.head.transpose(1, 2)) + candidates.bias[:, None, :]
        return finished_logits(self.config, torch.cat([shared, own], dim=-1))

    def full_logits(self, hidden: Tensor) -> Tensor:
        """Logits (…, vocabulary) of hidden states (…, d)."""
        return finished_logits(self.config, hidden @ self.weight.T)

    @torch.no_grad()
    def exact(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of N columns (N, d) under the full head: its likeliest token (N,) and the NLL of `targets` (N,)."""
        best, nll = [], []
        for part, wanted in zip(hidden.split(HEAD_COLUMNS), targets.split(HEAD_COLUMNS), strict=True):
            logits = self.full_logits(part).float()
            best.append(logits.argmax(-1))
            nll.append(torch.logsumexp(logits, -1) - logits.gather(-1, wanted[:, None])[:, 0])
        return torch.cat(best), torch.cat(nll)


@torch.no_grad()
def check_head(model: Any) -> None:
    """Raises BaseModelError for a base whose logits are not those of CandidateHead, measured on a few tokens."""
    head = CandidateHead(model)
    ids = torch.arange(min(8, len(head.weight)), device=model.device)[None]
    own = model(input_ids=ids).logits.float()
    found = head.full_logits(model.model(input_ids=ids).last_hidden_state).float()
    biased = getattr(model.get_output_embeddings(), "bias", None) is not None
    if biased or float((found - own).norm()) > _SAME_LOGITS * float(own.norm()):
        raise BaseModelError(
            f"{type(model).__name__} makes its logits otherwise than by an LM head without bias, scaled or capped; "
            "atoms cannot be trained on it: use a Llama, Qwen, SmolLM, Mistral, Gemma, Granite or Phi-3 base"
        )


def answer_nll(logits: Tensor, candidates: Candidates) -> Tensor:
    """NLL (B, T) of every target, padding included, over its row's candidates."""
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    return -log_probabilities.gather(-1, candidates.target[..., None])[..., 0]


def silence_loss(logits: Tensor, candidates: Candidates, valid: Tensor) -> Tensor:
    """KL(bare base || composed) per row, mean over its valid tokens, in nats, on the candidate set."""
    assert candidates.teacher is not None
    student = torch.log_softmax(logits.float(), dim=-1)
    divergence = (candidates.teacher.exp() * (candidates.teacher - student)).sum(-1)
    return (divergence * valid).sum(1) / valid.sum(1)
