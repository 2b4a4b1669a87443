"""Sampling with random numbers of each atom's own, so that results do not depend on batch mates."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import torch

from atomlora.questions.types import AtomText

_TEMPERATURE = 0.8
_TOP_K = 40


def sample(logs: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Tokens at temperature 0.8 among the 40 likeliest; one uniform number (R,) a row decides."""
    top, which = logs.topk(min(_TOP_K, logs.shape[-1]), dim=-1)
    ladder = (top / _TEMPERATURE).softmax(-1).cumsum(-1)
    place = (ladder < numbers[:, None].to(ladder.dtype)).sum(-1, keepdim=True).clamp(max=top.shape[-1] - 1)
    return which.gather(1, place)[:, 0]


def stream(atom: AtomText, seed: int) -> np.random.Generator:
    """The atom's own random numbers, from what the writer sees of it and from nothing else."""
    text = json.dumps([seed, atom.title, atom.headings, atom.text], ensure_ascii=False)
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")))


def stop_ids(tokenizer: Any) -> frozenset[int]:
    """The end token and every token that holds a line break: answers of both tasks are one line."""
    ends = {i for token, i in tokenizer.get_vocab().items() if "\n" in token or "Ċ" in token}
    return frozenset(ends | {tokenizer.eos_token_id} - {None})
