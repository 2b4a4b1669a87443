"""Adding adapters in training: each row of a batch mounts one adapter that learns and others that are frozen.

The sum of DESIGN's kernel contract with a backward that computes what training needs and no more. Through autograd's
own rules the concatenation of a row's factors would get gradients for every rank row, also of the frozen ones, which
are most of them; here the frozen ones only pass the gradient on to x. Forward and backward are batched matrix
products over the rows, whatever the number of adapters (bench/RESULTS.md has the times).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Frozen(NamedTuple):
    """Adapters that do not learn: A (M, r, d_in), Bt (M, r, d_out), and per row which it mounts, slots (N, m) int64
    in [0, M), with gains (N, m): weight times scaling, 0 for none."""

    A: Tensor
    Bt: Tensor
    slots: Tensor
    gains: Tensor


def grouped_delta(
    x: Tensor, y: Tensor, A: Tensor, Bt: Tensor, slots: Tensor, gains: Tensor, frozen: Frozen | None = None
) -> Tensor:
    """y[n] + gains[n] * (x[n] @ A[s].T) @ Bt[s] with s = slots[n], and the same over the frozen adapters of row n.

    x (N, c, d_in) and y (N, c, d_out) float32, c columns a row; A (S, r, d_in), Bt (S, r, d_out); slots (N,) int64,
    several rows may share one; gains (N,) float32. Differentiable (once) in x, y, A and Bt; gains and the frozen
    adapters get no gradient. On any device.
    """
    return _GroupedDelta.apply(x, y, A, Bt, slots, gains, frozen)  # type: ignore[no-any-return, no-untyped-call]


class _GroupedDelta(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, A: Tensor, Bt: Tensor, slots: Tensor, gains: Tensor, frozen: Frozen | None
    ) -> Tensor:
        a, bt = A[slots], Bt[slots]
        weights = gains[:, None].expand(-1, A.shape[1])
        if frozen is not None:
            a = torch.cat([a, frozen.A[frozen.slots].flatten(1, 2)], 1)
            bt = torch.cat([bt, frozen.Bt[frozen.slots].flatten(1, 2)], 1)
            weights = torch.cat([weights, frozen.gains.repeat_interleave(frozen.A.shape[1], 1)], 1)
        hidden = torch.bmm(x, a.transpose(1, 2)).mul_(weights[:, None])
        ctx.save_for_backward(x, a, bt, weights, hidden, slots)
        ctx.shapes = A.shape, Bt.shape
        return torch.baddbmm(y, hidden, bt)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, a, bt, weights, hidden, slots = ctx.saved_tensors
        of_a, of_bt = ctx.shapes
        rank = of_a[1]
        wants_x, wants_y, wants_a, wants_bt = ctx.needs_input_grad[:4]
        grad_x = grad_a = grad_bt = None
        if wants_x or wants_a:
            # Without a gradient for x only the learning rank rows, which come first, are needed.
            some = slice(None) if wants_x else slice(rank)
            inner = torch.bmm(gradient, bt[:, some].transpose(1, 2)).mul_(weights[:, None, some])
            if wants_x:
                grad_x = torch.bmm(inner, a)
            if wants_a:
                own = torch.bmm(inner[:, :, :rank].transpose(1, 2), x)
                grad_a = gradient.new_zeros(of_a).index_add_(0, slots, own)
        if wants_bt:
            own = torch.bmm(hidden[:, :, :rank].transpose(1, 2), gradient)
            grad_bt = gradient.new_zeros(of_bt).index_add_(0, slots, own)
        return grad_x, gradient if wants_y else None, grad_a, grad_bt, None, None, None
