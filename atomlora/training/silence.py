"""The silence bank: questions on which a mounted atom must leave the base's output alone.

Two kinds of rows: general questions, continued by the bare base's own greedy answer, and the distractor pool's
questions, continued by the pool atom's answer and with that atom mounted (`companion`): an atom that is routed by
mistake must disturb neither the base nor the atom that knows. The teacher is the output without the atom in
training, by KL (5 % off-topic examples with the base as teacher restore it: Knowledge Modules, arXiv 2503.08727).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from atomlora.settings import TrainSettings
from atomlora.training.adapters import StackedAdapters
from atomlora.training.objective import CandidateHead
from atomlora.training.rows import LateRows
from atomlora.training.trunk import Example, Trunk, late_forward
from atomlora.training.visibility import Mounted, mixture


@dataclass(frozen=True)
class SilenceBank:
    """Rows with their teacher (`rows.final`: hidden state without the atom in training), the teacher's likeliest
    tokens (B, T * L), and each row's companion in the distractor pool (-1: none, the bare base)."""

    rows: LateRows
    likely: Tensor
    companion: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def drawn(self, random: np.random.Generator, settings: TrainSettings) -> tuple[int, Mounted]:
        """A row, and at what weight the atom in training is mounted there: mostly a low gate, as the router gives
        atoms that are beside the point, sometimes 1."""
        pick = int(random.integers(0, len(self)))
        whole = random.random() < settings.silence_at_full_gate
        own = 1.0 if whole else random.uniform(0, settings.silence_gate_max)
        companion = self.companion[pick]
        return pick, Mounted(own) if companion < 0 else Mounted(own, (companion,), (1.0,))


@torch.no_grad()
def build_bank(
    trunk: Trunk,
    head: CandidateHead,
    general: Sequence[Example],
    known: Sequence[Example] = (),
    adapters: StackedAdapters | None = None,
) -> SilenceBank:
    """Bank of `general` examples, and of `known` ones, which are as many for each atom of the pool of `adapters` and
    in its order: each has its atom for a companion."""
    rows = trunk.rows([*general, *known], [0] * (len(general) + len(known)), with_final=True)
    assert rows.final is not None
    final = rows.final
    companion = [-1] * len(general)
    if known:
        assert adapters is not None
        assert adapters.pool is not None
        each = len(known) // len(adapters.pool)
        companion += [i // each for i in range(len(known))]
        chosen = rows.select(torch.arange(len(general), len(rows), device=final.device))
        beside = [Mounted(0.0, (number,), (1.0,)) for number in companion[len(general) :]]
        with adapters.mounted(mixture(chosen.owner, beside)):
            taught = late_forward(trunk.model, trunk.first_late, chosen)
        final = torch.cat([final[: len(general)], taught])
    likely = head.likely(final.flatten(0, 1)).reshape(len(rows), -1)
    return SilenceBank(replace(rows, final=final), likely, tuple(companion))
