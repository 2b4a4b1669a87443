"""Directions in which an adapted layer's inputs differ, learnt before those that all of them share.

An input of a late layer is mostly what every question has in common: at the last of the embedded base's gates one
direction of 576 holds 62 % of the energy. An adapter that reads those directions answers questions that are not its
own. So A is drawn, and its steps are taken, in coordinates in which inputs at large are white: A = Z S with
S = (C / mean eigenvalue + damping)^(-1/2), C the second moment of the bare base's inputs on general questions and on
the pool's facts. K-FAC preconditions by the same moments (arXiv 1503.05671); AlphaEdit projects edits out of the
space of preserved inputs altogether (arXiv 2410.02355), of which this is the soft form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from atomlora.atom import Target
from atomlora.compiler.adapters import target_modules
from atomlora.compiler.rows import IGNORED
from atomlora.compiler.trunk import Example, Trunk, late_forward

MOMENT_TOKENS = 24  # of a general answer: some four thousand inputs in all
MOMENT_ROWS = 32  # of one forward


@torch.no_grad()
def input_moments(trunk: Trunk, targets: Sequence[Target], examples: Sequence[Example]) -> tuple[Tensor, ...]:
    """Second moment (d_in, d_in) float32 of each target's inputs over the answer columns of `examples`, nothing
    mounted. Targets that read the same input share one tensor."""
    modules = target_modules(trunk.model, tuple(targets))
    sums: dict[int, Tensor] = {}
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
            sums[index] = sums[index] + inputs.T @ inputs if index in sums else inputs.T @ inputs

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
    means = {index: total / columns for index, total in sums.items()}
    return tuple(means[index] for index in reads)


def whiteners(moments: Sequence[Tensor], damping: float) -> tuple[Tensor, ...]:
    """S (d_in, d_in), symmetric, for each moment C: (C / mean eigenvalue + damping)^(-1/2), scaled so that a random
    A answers inputs at large as strongly as without it. Equal moments share one tensor."""
    made: dict[int, Tensor] = {}
    for moment in moments:
        if id(moment) in made:
            continue
        values, vectors = torch.linalg.eigh(moment.double() / moment.trace().double() * len(moment))
        values = values.clamp(min=0)
        scales = (values + damping).rsqrt()
        scales *= (values.sum() / (scales.square() * values).sum()).sqrt()
        made[id(moment)] = ((vectors * scales) @ vectors.T).to(moment.dtype)
    return tuple(made[id(moment)] for moment in moments)
