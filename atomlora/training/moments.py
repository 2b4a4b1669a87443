"""Second moments of what adapted layers read, by which their adapters are whitened (`atomlora.training.whitening`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from atomlora.atom import Target
from atomlora.training.adapters import target_modules
from atomlora.training.rows import IGNORED
from atomlora.training.trunk import Example, Trunk, late_forward
from atomlora.training.whitening import Moment, added, mean_of

MOMENT_TOKENS = 24  # of a general answer: some four thousand inputs in all
MOMENT_ROWS = 32  # of one forward


@torch.no_grad()
def input_moments(trunk: Trunk, targets: Sequence[Target], examples: Sequence[Example]) -> tuple[Moment, ...]:
    """Second moment (d_in, d_in) float32, or its sketch, of each target's inputs over the answer columns of `examples`,
    nothing mounted. Targets that read the same input share one."""
    modules = target_modules(trunk.model, tuple(targets))
    sums: dict[int, Moment] = {}
    reads = list(range(len(targets)))
    seen: dict[int, tuple[Tensor, int]] = {}
    real = torch.empty(0)
    columns = 0

    def watch(index: int) -> Any:
        def see(_module: Any, args: tuple[Tensor, ...]) -> None:
            held = seen.get(id(args[0]))
            if held is not None:
                reads[index] = held[1]
                return
            seen[id(args[0])] = args[0], index  # held, so that its id stays its own until the forward has ended
            inputs = args[0][real].float()
            sums[index] = added(sums.get(index), inputs)

        return see

    for start in range(0, len(examples), MOMENT_ROWS):
        some = examples[start : start + MOMENT_ROWS]
        rows = trunk.rows(some, [0] * len(some))
        real = rows.targets != IGNORED
        columns += int(real.sum())
        handles = [module.register_forward_pre_hook(watch(i)) for i, module in enumerate(modules)]
        try:
            late_forward(trunk.model, trunk.first_late, rows)
        finally:
            for handle in handles:
                handle.remove()
        seen.clear()
    means = {index: mean_of(total, columns) for index, total in sums.items()}
    return tuple(means[index] for index in reads)
