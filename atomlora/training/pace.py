"""Learning rates on bases of other sizes than the one that they were chosen on.

Adam moves every entry by the learning rate, whatever the weights beside it are. What a step changes should be in
proportion to what the base itself computes (the spectral condition for feature learning, arXiv 2310.17813), so

- B's rate goes with the late layers' gain, rms of output over rms of input: the embedded base multiplies what its late
  MLPs read by 5.6, Qwen2.5-Coder-0.5B by 0.64, and at the same rates the latter learns nothing at all;
- A's rate goes with 1 / width: the entries of a step agree in sign with the input that caused them, so they add up over
  the width (muP, arXiv 2203.03466).

Both are rounded to half octaves: the embedded base's own are 1, and a base in another type or in 8 bits keeps its.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from atomlora.bases import blocks, linear_layers
from atomlora.training.shape import late_blocks

REFERENCE_GAIN = 5.6  # of SmolLM2-135M's last five MLPs, geometric mean
REFERENCE_WIDTH = 800.0  # the same of what they read: 576, 576, 1536
PROBES = 64


class Pace(NamedTuple):
    """Factors of the learning rates of A and of B."""

    a: float = 1.0
    b: float = 1.0


@torch.no_grad()
def pace_of(model: Any) -> Pace:
    """What a base's late MLPs call for; 1 for both where they have no linear layers (experts in one tensor, say). It
    does not depend on which layers are adapted. A's is never above 1: no narrower base was measured."""
    every = blocks(model)
    generator = torch.Generator().manual_seed(0)
    gains, widths = [], []
    for number in late_blocks(len(every), "late:auto"):
        for module in linear_layers(every[number].mlp).values():
            probes = torch.randn(PROBES, module.in_features, generator=generator)
            bare = module(torch.zeros(1, module.in_features).to(model.device, model.dtype))  # its bias
            out = module(probes.to(model.device, model.dtype)) - bare
            gains.append(float(out.float().square().mean().sqrt()))
            widths.append(module.in_features)
    if not gains or min(gains) == 0:
        return Pace()
    return Pace(min(1.0, _stepped(REFERENCE_WIDTH / _mean(widths))), _stepped(_mean(gains) / REFERENCE_GAIN))


def _mean(values: list[float] | list[int]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _stepped(ratio: float) -> float:
    """The nearest power of the square root of two."""
    return float(2.0 ** (round(2 * math.log2(ratio)) / 2))
