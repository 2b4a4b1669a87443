"""The definition of `sum_delta` in torch: any device, any floating dtype, differentiable.

    delta[t] = sum_j weights[t,j] * scaling[slots[t,j]] * Bt[slots[t,j]].T @ (A[slots[t,j]] @ x[t])

Every other backend is tested against this one and against a plain loop in float64. Work is done in float32
(float64 where x is float64), and on a GPU nothing waits for the device.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import gelu, silu

from atomlora.kernels.slabs import FactorPool

# Gathered factors of one block of rows hold at most this many elements (64 MiB in float32).
_BLOCK_ELEMENTS = 1 << 24

Activation = Literal["silu", "gelu_tanh"]


def delta(
    x: torch.Tensor,
    A: torch.Tensor,
    Bt: torch.Tensor,
    scaling: torch.Tensor,
    slots: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """The sum of deltas itself, as a new tensor (T, d_out) in float32, or float64 for a float64 `x`.

    x (T, d_in), A (S, r, d_in), Bt (S, r, d_out), scaling (S,) or, by rank row, (S, r), slots (T, k) integer
    with negative = empty, weights (T, k). Differentiable in x, A, Bt, scaling and weights; an empty slot passes
    no gradient and no value of a factor, not even a NaN.
    """
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    count, k = slots.shape
    rank, d_in, d_out = A.shape[1], A.shape[2], Bt.shape[2]
    if count == 0 or k == 0:
        return x.new_zeros((count, d_out), dtype=work)
    step = max(1, _BLOCK_ELEMENTS // (k * rank * max(d_in, d_out)))
    blocks = []
    for first in range(0, count, step):
        some = slots[first : first + step]
        filled = some >= 0
        index = torch.where(filled, some, 0).long()
        mask = filled[:, :, None, None]
        a = torch.where(mask, A[index].to(work), 0)
        bt = torch.where(mask, Bt[index].to(work), 0)
        scales = (scaling if scaling.dim() == 2 else scaling[:, None])[index].to(work)
        gain = torch.where(filled[:, :, None], weights[first : first + step, :, None].to(work) * scales, 0)
        hidden = torch.einsum("tkrd,td->tkr", a, x[first : first + step].to(work))
        blocks.append(torch.einsum("tkr,tkrd->td", hidden * gain, bt))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def run(
    x: torch.Tensor,
    pool: FactorPool,
    slots: torch.Tensor,
    weights: torch.Tensor,
    out: torch.Tensor,
    rows: torch.Tensor | None = None,
) -> None:
    """`out += delta(x, …)` in place, on all rows or on `rows` only; contract in `dispatch.sum_delta`.

    Raises ValueError for shapes that do not fit together and, on CPU, IndexError for what lies outside.
    """
    check_shapes(x, pool, slots, weights, out, rows)
    if slots.numel() == 0:
        return
    if slots.is_cpu and int(slots.max()) >= pool.A.shape[0]:
        raise IndexError(f"slots name {int(slots.max())}, but the pool has {pool.A.shape[0]} slots")
    if rows is None:
        chosen, target = x, out
    else:
        if rows.is_cpu and not 0 <= int(rows.min()) <= int(rows.max()) < x.shape[0]:
            raise IndexError(f"rows name a row outside x, which has {x.shape[0]}")
        chosen, target = x[rows], out[rows]
    change = delta(chosen, pool.A, pool.Bt, pool.scaling, slots, weights)
    active = ((slots >= 0) & (weights != 0)).any(dim=1, keepdim=True)
    result = torch.where(active, (target.to(change.dtype) + change).to(out.dtype), target)
    if rows is None:
        out.copy_(result)
    else:
        out.index_copy_(0, rows.long(), result)


def run_gated(
    x: torch.Tensor,
    pools: tuple[FactorPool, FactorPool],
    slots: torch.Tensor,
    weights: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    activation: Activation,
) -> None:
    """`gate = act(gate + delta(x, …)) * (up + delta(x, …))` in place; contract in `dispatch.sum_delta_gated`.

    Raises what `run` raises."""
    for pool, out in zip(pools, (gate, up), strict=True):
        check_shapes(x, pool, slots, weights, out, None)
    if slots.is_cpu and slots.numel() and int(slots.max()) >= min(pool.A.shape[0] for pool in pools):
        raise IndexError(f"slots name {int(slots.max())}, but the pools have {[pool.A.shape[0] for pool in pools]}")
    changes = [delta(x, *pool, slots, weights) for pool in pools]
    of_gate, of_up = (out.to(change.dtype) + change for out, change in zip((gate, up), changes, strict=True))
    act = silu(of_gate) if activation == "silu" else gelu(of_gate, approximate="tanh")
    gate.copy_(act * of_up)


def check_shapes(
    x: torch.Tensor,
    pool: FactorPool,
    slots: torch.Tensor,
    weights: torch.Tensor,
    out: torch.Tensor,
    rows: torch.Tensor | None,
) -> None:
    """Raise ValueError, naming every shape, unless they fit together as `dispatch.sum_delta` wants them."""
    A, Bt, scaling = pool
    fits = (
        x.dim() == out.dim() == slots.dim() == 2
        and A.dim() == Bt.dim() == 3
        and A.shape[:2] == Bt.shape[:2]
        and scaling.shape in (A.shape[:1], A.shape[:2])
        and x.shape[1] == A.shape[2]
        and out.shape == (x.shape[0], Bt.shape[2])
        and weights.shape == slots.shape
        and slots.shape[0] == (x.shape[0] if rows is None else rows.numel())
    )
    if not fits:
        raise ValueError(
            f"shapes do not fit: x {tuple(x.shape)}, A {tuple(A.shape)}, Bt {tuple(Bt.shape)}, "
            f"scaling {tuple(scaling.shape)}, slots {tuple(slots.shape)}, weights {tuple(weights.shape)}, "
            f"out {tuple(out.shape)}, rows {None if rows is None else tuple(rows.shape)}; "
            "wanted x (T, d_in), A (S, r, d_in), Bt (S, r, d_out), scaling (S,) or (S, r), out (T, d_out), "
            "slots and weights (T or number of rows, k)"
        )
