# mypy: disable-error-code="import-untyped"
"""The `triton` backend: `sum_delta` on CUDA tensors, in two launches however many targets share an input, and
`sum_delta_gated` in two as well.

Safe in a CUDA graph: the launches depend on shapes alone, the workspace comes from torch's allocator (which
gives a capture memory of its own), and no configuration is tuned while a stream captures. Under
TRITON_INTERPRET=1 the same code runs on CPU tensors, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import triton

from atomlora.kernels import triton_loops, tuning
from atomlora.kernels.reference import Activation, check_shapes
from atomlora.kernels.slabs import FactorPool
from atomlora.kernels.tuning import Config, Shape

MOST_SLICES = 3
_INTERPRETED = not isinstance(triton_loops.shrink, triton.runtime.JITFunction)
_FACTORS = (torch.float32, torch.bfloat16, torch.float16, torch.int8)
_ENDS = (torch.float32, torch.bfloat16, torch.float16)


def run(
    x: torch.Tensor,
    pool: FactorPool,
    slots: torch.Tensor,
    weights: torch.Tensor,
    out: torch.Tensor,
    rows: torch.Tensor | None = None,
) -> str | None:
    """Do `sum_delta` (contract in `dispatch.sum_delta`) and return None, or touch nothing and return why not.

    A slot outside the pool counts as empty: to report it would mean to wait for the device."""
    return run_many(x, (pool,), slots, weights, (out,), rows)


def run_many(
    x: torch.Tensor,
    pools: Sequence[FactorPool],
    slots: torch.Tensor,
    weights: torch.Tensor,
    outs: Sequence[torch.Tensor],
    rows: torch.Tensor | None = None,
) -> str | None:
    """`run` for up to three targets of one input, their shrinks in one launch and their expands in another."""
    for pool, out in zip(pools, outs, strict=True):
        check_shapes(x, pool, slots, weights, out, rows)
    reason = _refusal(x, pools, outs, weights)
    if reason is not None or slots.numel() == 0:
        return reason
    x, targets = _rowwise(x), [_rowwise(out) for out in outs]
    call = Call(x, pools, slots.int().contiguous(), weights.float().contiguous(), targets, rows)
    call.launch(_configured(call))
    for out, target in zip(outs, targets, strict=True):
        if target is not out:
            out.copy_(target)
    return None


def run_gated(
    x: torch.Tensor,
    pools: tuple[FactorPool, FactorPool],
    slots: torch.Tensor,
    weights: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    activation: Activation,
) -> str | None:
    """Do `sum_delta_gated` (contract in `dispatch`) and return None, or touch nothing and return why not."""
    outs = (gate, up)
    for pool, out in zip(pools, outs, strict=True):
        check_shapes(x, pool, slots, weights, out, None)
    reason = _refusal(x, pools, outs, weights)
    if reason is not None or gate.numel() == 0:
        return reason
    if slots.shape[1] == 0:  # a launch of no rank rows is none, but the activation is still to do
        slots, weights = slots.new_full((len(x), 1), -1), weights.new_zeros((len(x), 1))
    x, targets = _rowwise(x), [_rowwise(out) for out in outs]
    call = GatedCall(x, pools, slots.int().contiguous(), weights.float().contiguous(), targets, None)
    call.gelu = activation == "gelu_tanh"
    call.launch(_configured(call))
    if targets[0] is not gate:
        gate.copy_(targets[0])
    return None


class Call:
    """One call's arguments, ready to be launched with any configuration."""

    kind = ""

    def __init__(
        self,
        x: torch.Tensor,
        pools: Sequence[FactorPool],
        slots: torch.Tensor,
        weights: torch.Tensor,
        outs: Sequence[torch.Tensor],
        rows: torch.Tensor | None,
    ) -> None:
        self.x, self.slots, self.weights, self.outs = x, slots, weights, list(outs)
        self.rows = slots if rows is None else rows.long().contiguous()  # where there are none, nothing is read
        self.has_rows = rows is not None
        self.pools = list(pools)
        self.slices = len(pools)
        self.count, self.k = slots.shape
        self.size, self.rank, self.d_in = pools[0].A.shape
        self.shape = Shape(
            rows=tuning.bucket(self.count),
            rank_rows=tuning.bucket(self.k * self.rank),
            d_in=self.d_in,
            d_out=tuple(out.shape[1] for out in outs),
            dtypes=f"{x.dtype} {pools[0].A.dtype}{self.kind}".replace("torch.", ""),
        )

    def launch(self, config: Config) -> None:
        partial = self.workspace(config)
        with torch.cuda.device(self.x.device) if self.x.is_cuda else nullcontext():
            self.shrink(config, partial)
            self.expand(config, partial)

    def workspace(self, config: Config) -> torch.Tensor:
        shape = (self.slices, config.split, self.count, self.k * self.rank)
        return torch.empty(shape, dtype=torch.float32, device=self.x.device)

    def shrink(self, config: Config, partial: torch.Tensor) -> None:
        scaling = self.pools[0].scaling
        rank_tiles = -(-self.k * self.rank // config.shrink_m)
        grid = (-(-self.count // config.rows) * rank_tiles, config.split, self.slices)
        # Tensor cores multiply what x holds: bfloat16 x float32 is float32, and int8 becomes what x is.
        low = self.x.dtype if self.pools[0].A.dtype in (self.x.dtype, torch.int8) else torch.float32
        triton_loops.shrink[grid](
            self.x, self.rows, self.x.stride(0), *self._three([pool.A for pool in self.pools]),
            self.pools[0].A.stride(0), *self._three([pool.scaling for pool in self.pools]), scaling.stride(0),
            self.slots, self.weights, partial, self.count, self.k, self.size, self.d_in,
            RANK=self.rank, SCALES=1 if scaling.dim() == 1 else self.rank, HAS_ROWS=self.has_rows,
            SLICES=self.slices, SPLIT=config.split, BLOCK_T=config.rows, BLOCK_J=triton.next_power_of_2(self.k),
            BLOCK_M=config.shrink_m, BLOCK_K=config.shrink_k, FACTOR=_TYPES[low], num_warps=config.shrink_warps,
        )  # fmt: skip

    def expand(self, config: Config, partial: torch.Tensor) -> None:
        widest = max(out.shape[1] for out in self.outs)
        grid = (-(-self.count // config.rows), -(-widest // config.expand_n), self.slices)
        triton_loops.expand[grid](
            *self._three(self.outs), self.rows, *self._three([out.stride(0) for out in self.outs]),
            *self._three([pool.Bt for pool in self.pools]), *self._three([pool.Bt.stride(0) for pool in self.pools]),
            self.slots, self.weights, partial, self.count, self.k, self.size,
            *self._three([out.shape[1] for out in self.outs]),
            RANK=self.rank, HAS_ROWS=self.has_rows, SLICES=self.slices, SPLIT=config.split, BLOCK_T=config.rows,
            BLOCK_J=triton.next_power_of_2(self.k), BLOCK_M=config.expand_m, BLOCK_N=config.expand_n,
            num_warps=config.expand_warps,
        )  # fmt: skip

    def scratch(self) -> Call:
        """The same call with outputs of its own, to be timed."""
        outs = [out.clone() for out in self.outs]
        return type(self)(self.x, self.pools, self.slots, self.weights, outs, self.rows if self.has_rows else None)

    @staticmethod
    def _three(values: list[Any]) -> list[Any]:
        return [*values, *[values[0]] * (MOST_SLICES - len(values))]


class GatedCall(Call):
    """The same for gate and up of an MLP, whose expand goes through the activation and writes over gate."""

    kind = " gated"  # tuned apart, for its expand does twice as much and more
    gelu = False

    def expand(self, config: Config, partial: torch.Tensor) -> None:
        (gate, up), (of_gate, of_up) = self.outs, self.pools
        grid = (self.count, -(-gate.shape[1] // config.expand_n))
        triton_loops.expand_gated[grid](
            gate, up, gate.stride(0), up.stride(0), of_gate.Bt, of_up.Bt, of_gate.Bt.stride(0), of_up.Bt.stride(0),
            self.slots, self.weights, partial, self.count, self.k, self.size, gate.shape[1],
            RANK=self.rank, SPLIT=config.split, GELU=self.gelu, BLOCK_M=config.expand_m, BLOCK_N=config.expand_n,
            num_warps=config.expand_warps,
        )  # fmt: skip


def _rowwise(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy whose rows are contiguous."""
    return tensor if tensor.stride(1) == 1 or tensor.shape[1] == 1 else tensor.contiguous()


_TYPES = {
    torch.float32: triton.language.float32,
    torch.bfloat16: triton.language.bfloat16,
    torch.float16: triton.language.float16,
}


def _configured(call: Call) -> Config:
    if _INTERPRETED:
        return tuning.interpreted(call.shape)
    device = torch.cuda.get_device_name(call.x.device)
    found = tuning.known(device, call.shape)
    if found is not None:
        return found
    if torch.cuda.is_current_stream_capturing():
        return tuning.guess(call.shape)
    return tuning.tune(device, call.shape, call.scratch())


def _refusal(
    x: torch.Tensor, pools: Sequence[FactorPool], outs: Sequence[torch.Tensor], weights: torch.Tensor
) -> str | None:
    first = pools[0]
    if len(pools) > MOST_SLICES:
        return f"{len(pools)} targets in one call; at most {MOST_SLICES}"
    if not (x.is_cuda or (_INTERPRETED and x.is_cpu)):
        return f"the tensors are on {x.device}, not on a CUDA device"
    if any(tensor.device != x.device for tensor in (*outs, *(factor for pool in pools for factor in pool))):
        return "the tensors are on different devices"
    if x.dtype not in _ENDS or any(out.dtype != x.dtype for out in outs):
        return f"activations are {x.dtype} and {outs[0].dtype}, not both float32, bfloat16 or float16"
    for A, Bt, scaling in pools:
        if A.dtype not in _FACTORS or Bt.dtype != A.dtype or A.dtype != first.A.dtype or scaling.dtype != torch.float32:
            return f"the pool is stored as {A.dtype}, not float32, bfloat16, float16 or int8"
        if not (A[0].is_contiguous() and Bt[0].is_contiguous() and (scaling.dim() == 1 or scaling.stride(1) == 1)):
            return "a slot's numbers are not contiguous"
        if A.shape != first.A.shape or A.stride(0) != first.A.stride(0) or scaling.stride() != first.scaling.stride():
            return "the targets' pools differ in shape or layout"
    if torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (x, weights, *outs, *(factor for pool in pools for factor in pool))
    ):
        return "a gradient is asked for"
    return None
