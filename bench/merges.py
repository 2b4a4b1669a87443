"""TIES (arXiv 2306.01708) and DARE (arXiv 2311.03099) through PEFT's own `add_weighted_adapter`, for stacks of atoms.

PEFT merges adapters of a model; of that model only the shapes matter, so it is one of bare linear layers. The `_svd`
forms merge the products B A and factor the result again, here to the rank of the whole stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from atomlora.atom import Target
from atomlora.training.adapters import FrozenPool

METHODS = {"ties": "ties_svd", "dare": "dare_ties_svd"}
DENSITY = 0.5  # of the entries of a delta that survive trimming (TIES) or dropping (DARE)


def pool_of(adapters: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> FrozenPool:
    """Merged adapters of one rank as a frozen pool."""
    factors = [
        (torch.stack([a for a, _ in some]), torch.stack([bt for _, bt in some])) for some in zip(*adapters, strict=True)
    ]
    return FrozenPool(factors=tuple(factors), scaling=1.0)


class Merger:
    """Merges atoms of a frozen pool (its scaling multiplied into Bt) into single adapters."""

    def __init__(self, pool: FrozenPool, targets: tuple[Target, ...]) -> None:
        self.pool = pool
        self.rank = pool.factors[0][0].shape[1]
        self.names = [f"layer_{number}" for number in range(len(targets))]
        layers = {name: nn.Linear(t.d_in, t.d_out, bias=False) for name, t in zip(self.names, targets, strict=True)}
        self.config = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=self.names)
        self.model: Any = get_peft_model(nn.ModuleDict(layers), self.config, adapter_name="empty")

    @torch.no_grad()
    def merged(self, atoms: Sequence[int], method: str, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Per target the merged A (R, d_in) and Bt (R, d_out) of these atoms at weight 1, R = their ranks' sum."""
        names = [f"atom{number}" for number in range(len(atoms))]
        for name, atom in zip(names, atoms, strict=True):
            self.model.add_adapter(name, self.config)
            for layer, (a, bt) in zip(self.names, self.pool.factors, strict=True):
                module = self._layer(layer)
                module.lora_A[name].weight.copy_(a[atom])
                module.lora_B[name].weight.copy_(bt[atom].T)
        torch.manual_seed(seed)  # DARE drops at random
        self.model.add_weighted_adapter(
            names,
            [1.0] * len(names),
            "merged",
            combination_type=METHODS[method],
            svd_rank=self.rank * len(names),
            density=DENSITY,
            svd_full_matrices=False,
        )
        found = []
        for layer in self.names:
            module = self._layer(layer)
            scaling = module.scaling["merged"]
            found.append((module.lora_A["merged"].weight.clone(), scaling * module.lora_B["merged"].weight.T.clone()))
        for name in [*names, "merged"]:
            self.model.delete_adapter(name)
        return found

    def _layer(self, name: str) -> Any:
        return self.model.base_model.model[name]
