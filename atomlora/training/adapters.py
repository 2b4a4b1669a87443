"""N atoms' factors stacked in one tensor per target, trained together, each with its own optimiser clock.

Layout as in the slot pool: A (N, r, d_in), Bt (N, r, d_out), so rank rows are contiguous in both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from atomlora.atom import Target, split_record
from atomlora.bases import blocks
from atomlora.kernels import Frozen, grouped_delta
from atomlora.training.whitening import Whitener, whitened

if TYPE_CHECKING:
    from collections.abc import Iterator

BETA_1, BETA_2, EPSILON = 0.9, 0.99, 1e-8


@dataclass(frozen=True)
class Mixture:
    """Which frozen neighbours a batch of rows mounts: pool indices (B, m) and weights (B, m); own weights (B,).
    Rows of weight 0 cost what others cost, so callers draw m as small as they can."""

    own_slots: Tensor
    own_weights: Tensor
    other_slots: Tensor | None = None
    other_weights: Tensor | None = None


@dataclass(frozen=True)
class FrozenPool:
    """Finished atoms that are mounted as distractors: factors per target A (M, r, d_in), Bt (M, r, d_out)."""

    factors: tuple[tuple[Tensor, Tensor], ...]
    scaling: float

    def __len__(self) -> int:
        return int(self.factors[0][0].shape[0])


class StackedAdapters:
    """The factors of N atoms in training, mounted by hooks on the base's own linear layers.

    `rank`, `alpha` as in LoRA (arXiv 2106.09685): delta = alpha / rank * B A x. A starts as a random projection
    drawn from the atom's identity, B at zero. `whitening`: per target a symmetric S (d_in, d_in), in whose coordinates
    A is drawn and learnt (see `atomlora.training.whitening`).
    """

    def __init__(
        self,
        model: Any,
        targets: tuple[Target, ...],
        slots: int,
        rank: int,
        alpha: float,
        pool: FrozenPool | None = None,
        whitening: Sequence[Whitener] | None = None,
    ) -> None:
        self.whitening = whitening
        self.model, self.targets, self.rank, self.scaling, self.pool = (
            model,
            targets,
            rank,
            alpha / rank,
            pool,
        )
        device = model.device
        self.a = [torch.zeros(slots, rank, t.d_in, device=device, requires_grad=True) for t in targets]
        self.bt = [torch.zeros(slots, rank, t.d_out, device=device, requires_grad=True) for t in targets]
        self.parameters = [*self.a, *self.bt]
        self._moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters]
        self.steps = torch.zeros(slots, device=device)

    @torch.no_grad()
    def reset(self, slot: int, identity: str) -> None:
        """Give `slot` to the atom `identity`: its own random A, zero B, empty moments, step 0."""
        seed = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") >> 1
        generator = torch.Generator().manual_seed(seed)
        for number, (a, target) in enumerate(zip(self.a, self.targets, strict=True)):
            random = torch.randn(self.rank, target.d_in, generator=generator).to(a) / target.d_in**0.5
            a[slot] = self._whitened(number, random)
        for bt in self.bt:
            bt[slot] = 0
        for first, second in self._moments:
            first[slot] = 0
            second[slot] = 0
        self.steps[slot] = 0

    @contextmanager
    def mounted(self, mixture: Mixture) -> Iterator[None]:
        """Within: every target adds the deltas that `mixture` names for each row of the batch."""
        modules = target_modules(self.model, self.targets)
        handles = [m.register_forward_hook(self._hook(i, mixture)) for i, m in enumerate(modules)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, index: int, mixture: Mixture) -> Any:
        own_gains = self.scaling * mixture.own_weights

        def add(_module: Any, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
            factors = self.a[index], self.bt[index], mixture.own_slots, own_gains
            return grouped_delta(args[0].float(), y.float(), *factors, self._neighbours(index, mixture)).to(y.dtype)

        return add

    def _neighbours(self, index: int, mixture: Mixture) -> Frozen | None:
        if mixture.other_slots is None or mixture.other_weights is None or self.pool is None:
            return None
        return Frozen(*self.pool.factors[index], mixture.other_slots, self.pool.scaling * mixture.other_weights)

    @torch.no_grad()
    def step(self, active: Tensor, learning_rate_a: float, learning_rate_b: float, decay: Tensor | None = None) -> None:
        """One Adam step (arXiv 1412.6980) for the slots in `active` (int64), each by its own step count. A's is taken
        in whitened coordinates: with A = Z S, Z's gradient is A's times S, and a step of Z moves A by S times it.

        `decay` (len(active),) scales the learning rates per atom. Gradients are cleared.
        """
        self.steps[active] += 1
        clock = self.steps[active]
        correct_1 = (1 - BETA_1**clock)[:, None, None]
        correct_2 = (1 - BETA_2**clock)[:, None, None]
        scale = torch.ones_like(clock) if decay is None else decay
        for number, (parameter, (first, second)) in enumerate(zip(self.parameters, self._moments, strict=True)):
            if parameter.grad is None:
                continue
            rate = learning_rate_a if number < len(self.a) else learning_rate_b
            gradient = self._whitened(number, parameter.grad[active])
            m = first[active].mul_(BETA_1).add_(gradient, alpha=1 - BETA_1)
            v = second[active].mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
            first[active], second[active] = m, v
            update = (m / correct_1) / ((v / correct_2).sqrt_().add_(EPSILON))
            parameter[active] -= rate * scale[:, None, None] * self._whitened(number, update)
            parameter.grad = None

    def _whitened(self, number: int, rows: Tensor) -> Tensor:
        """Rows of parameter `number` (as in `parameters`) times its S; those of B as they are."""
        return rows if self.whitening is None or number >= len(self.a) else whitened(rows, self.whitening[number])

    @torch.no_grad()
    def record(self, slot: int) -> np.ndarray:
        """The atom's flat weight record, bfloat16 as uint16 (see `atom.split_record`)."""
        parts = [x for a, bt in zip(self.a, self.bt, strict=True) for x in (a[slot].flatten(), bt[slot].flatten())]
        return torch.cat(parts).to(torch.bfloat16).cpu().view(torch.uint16).numpy()

    def finite(self, slot: int) -> bool:
        """Whether all of the atom's factors are."""
        return all(bool(parameter[slot].isfinite().all()) for parameter in self.parameters)

    @torch.no_grad()
    def round_to_storage(self, slots: Tensor) -> None:
        """Round factors to what is stored, so that the last check sees the very weights that will serve."""
        for parameter in self.parameters:
            parameter[slots] = parameter[slots].to(torch.bfloat16).to(parameter.dtype)


def pool_from_records(
    records: Sequence[np.ndarray], rank: int, alpha: float, targets: tuple[Target, ...], device: Any
) -> FrozenPool:
    """Stack stored records (uint16 bfloat16) into a pool of frozen neighbours in float32."""
    columns: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in targets]
    for record in records:
        flat = (record.astype(np.uint32) << 16).view(np.float32)
        for column, (a, bt) in zip(columns, split_record(flat, rank, targets), strict=True):
            column[0].append(torch.from_numpy(a.copy()))
            column[1].append(torch.from_numpy(bt.copy()))
    factors = tuple((torch.stack(a).to(device), torch.stack(bt).to(device)) for a, bt in columns)
    return FrozenPool(factors=factors, scaling=alpha / rank)


def target_modules(model: Any, targets: tuple[Target, ...]) -> list[Any]:
    """The base's linear layers that `targets` name."""
    all_blocks = blocks(model)
    return [all_blocks[t.layer].get_submodule(t.module) for t in targets]
