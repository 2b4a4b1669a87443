"""The silence bank: questions on which a mounted atom must leave the base's output alone.

Two kinds of rows: general questions, continued by the bare base's own greedy answer, and the distractor pool's
questions, continued by the pool atom's answer and with that atom mounted (`companion`): an atom that is routed by
mistake must disturb neither the base nor the atom that knows. The teacher is the output without the atom in
training, by KL (5 % off-topic examples with the base as teacher restore it: Knowledge Modules, arXiv 2503.08727).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from atomlora.compiler.adapters import Mixture, StackedAdapters
from atomlora.compiler.objective import CandidateHead
from atomlora.compiler.trunk import Example, LateRows, Trunk, late_forward


@dataclass(frozen=True)
class SilenceBank:
    """Rows with their teacher (`rows.final`: hidden state without the atom in training), the teacher's likeliest
    tokens (B, T * L), and each row's companion in the distractor pool (-1: none, the bare base)."""

    rows: LateRows
    likely: Tensor
    companion: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)


@torch.no_grad()
def build_bank(
    trunk: Trunk,
    head: CandidateHead,
    general: Sequence[Example],
    known: Sequence[Example],
    adapters: StackedAdapters,
) -> SilenceBank:
    """Bank of `general` examples, and of `known` ones, which are as many for each atom of `adapters.pool` and in its
    order: each has its atom for a companion. Without a pool `known` must be empty."""
    rows = trunk.rows([*general, *known], [0] * (len(general) + len(known)))
    companion = [-1] * len(general)
    if known:
        assert adapters.pool is not None
        each = len(known) // len(adapters.pool)
        companion += [i // each for i in range(len(known))]
        picked = torch.arange(len(general), len(rows), device=rows.hidden.device)
        mounted = torch.tensor(companion[len(general) :], device=rows.hidden.device)[:, None]
        silent = Mixture(
            own_slots=torch.zeros_like(picked),
            own_weights=torch.zeros(len(picked), device=rows.hidden.device),
            other_slots=mounted,
            other_weights=torch.ones_like(mounted, dtype=torch.float32),
        )
        chosen = rows.select(picked)
        with adapters.mounted(silent):
            taught = late_forward(trunk.model, trunk.first_late, chosen)
        rows = replace(rows, final=torch.cat([rows.final[: len(general)], taught]))
    return SilenceBank(rows, head.likely(rows.final), tuple(companion))
