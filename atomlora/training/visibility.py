"""Mixed visibility: weights and neighbours of a training row, drawn as serving draws them.

Trained beside distractors, adapters hold at twenty; untrained they collapse at three (Knowledge Modules, arXiv
2503.08727).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from atomlora.settings import TrainSettings
from atomlora.training.adapters import Mixture


class Mounted(NamedTuple):
    """What one row mounts: its atom's weight, and frozen neighbours with theirs."""

    own: float = 1.0
    others: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


def drawn(random: np.random.Generator, settings: TrainSettings, neighbours: int) -> Mounted:
    """With probability `mixed_visibility` an own weight from [own_weight_min, 1], and up to `max_distractors` of the
    pool's `neighbours` at weights from [0, 1]; else the atom alone at weight 1."""
    if random.random() >= settings.mixed_visibility:
        return Mounted()
    own = random.uniform(settings.own_weight_min, 1)
    if not neighbours:
        return Mounted(own)
    count = int(random.integers(0, settings.max_distractors + 1))
    others = random.integers(0, neighbours, count)
    return Mounted(own, tuple(others.tolist()), tuple(random.uniform(0, 1, count).tolist()))


def mixture(owners: Tensor, mounted: Sequence[Mounted]) -> Mixture:
    """The batch's mixture; rows with fewer neighbours are padded with weight 0."""
    device, width = owners.device, max(len(one.others) for one in mounted)
    own = torch.tensor([one.own for one in mounted], device=device)
    if not width:
        return Mixture(own_slots=owners, own_weights=own)
    padded = [(one, width - len(one.others)) for one in mounted]
    return Mixture(
        own_slots=owners,
        own_weights=own,
        other_slots=torch.tensor([[*one.others, *[0] * lacking] for one, lacking in padded], device=device),
        other_weights=torch.tensor([[*one.weights, *[0.0] * lacking] for one, lacking in padded], device=device),
    )
