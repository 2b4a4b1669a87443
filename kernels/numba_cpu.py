# mypy: disable-error-code="attr-defined,no-untyped-call"
"""The `numba` backend: `sum_delta` on CPU tensors.

At decode a call is a few microseconds of arithmetic, so nothing here is a tensor operation on the usual path:
sizes and addresses are read, and one call goes into compiled code, which releases the GIL.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import types

from atomlora.kernels import numba_gated, numba_loops
from atomlora.kernels.reference import Activation, check_shapes
from atomlora.kernels.slabs import FactorPool

# Multiply-adds below which a parallel region costs more than it saves: a barrier takes 5 to 50 microseconds,
# in which one core does about this much.
_PARALLEL_WORK = 1 << 20

# A number of the type that factors of each dtype are read as: it picks the compiled loops.
_KINDS = {torch.float32: np.float32(0), torch.bfloat16: np.uint16(0), torch.int8: np.int8(0)}
_float32, _int32 = torch.float32, torch.int32
_may_split: bool | None = None


def run(
    x: torch.Tensor,
    pool: FactorPool,
    slots: torch.Tensor,
    weights: torch.Tensor,
    out: torch.Tensor,
    rows: torch.Tensor | None = None,
) -> str | None:
    """Do `sum_delta` (contract in `dispatch.sum_delta`) and return None, or touch nothing and return why not.

    Raises ValueError for shapes that do not fit together and IndexError for a slot outside the pool or a row
    outside x.
    """
    found = _planned(x, pool, slots, weights, out, rows)
    if isinstance(found, str):
        return found
    plan, ((places, d_in), (count, k), _, (_, d_out)) = found
    if count == 0 or k == 0:
        return None
    rows_at = 0
    if rows is not None:
        rows = rows.to(torch.int64).contiguous()
        rows_at = rows.data_ptr()
    slots, weights = _tables(slots, weights)
    dx, step = x.stride()
    if step != 1:
        x = x.contiguous()
        dx = d_in
    dy, step = out.stride()
    target = out
    if step != 1:
        target = out.contiguous()
        dy = d_out
    loops, threads = plan.serial, 1
    if count * k * plan.rank * (d_in + d_out) >= _PARALLEL_WORK:
        threads = _threads()
        if threads > 1:
            loops = numba_loops.parallel
    bad = loops(
        plan.kind, (x.data_ptr(), dx, target.data_ptr(), dy, rows_at), places, *plan.addresses, plan.sizes,
        plan.size, plan.rank, slots.data_ptr(), weights.data_ptr(), count, k, threads,
    )  # fmt: skip
    if bad == -2:
        raise IndexError(f"rows name a row outside x, which has {places}")
    if bad != -1:
        raise IndexError(f"slots[{bad // k}, {bad % k}] lies outside the pool, which has {plan.size} slots")
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
    """Do `sum_delta_gated` (contract in `dispatch`) and return None, or touch nothing and return why not.

    Raises what `run` raises."""
    first = _planned(x, pools[0], slots, weights, gate)
    second = _planned(x, pools[1], slots, weights, up)
    if isinstance(first, str) or isinstance(second, str):
        return first if isinstance(first, str) else str(second)
    of_gate, ((_, d_in), (count, k), _, (_, width)) = first
    of_up = second[0]
    if of_gate.alike != of_up.alike:
        return "the pools of gate and up differ in storage, slots or rank"
    if count == 0:
        return None
    targets = [out if out.stride(1) == 1 else out.contiguous() for out in (gate, up)]
    x = x if x.stride(1) == 1 else x.contiguous()
    ends = [(tensor.data_ptr(), tensor.stride(0)) for tensor in (x, *targets)]
    where = (*ends[0], *ends[1], *ends[2])
    gelu = int(activation == "gelu_tanh")
    if 2 * count * k * of_gate.rank * (d_in + width) >= _PARALLEL_WORK and _threads() > 1:
        run(x, pools[0], slots, weights, targets[0])
        run(x, pools[1], slots, weights, targets[1])
        numba_gated.activate(where, count, width, gelu)
    else:
        slots, weights = _tables(slots, weights)
        bad = numba_gated.serial(
            of_gate.kind, where, (*of_gate.addresses, *of_gate.sizes), (*of_up.addresses, *of_up.sizes),
            of_gate.size, of_gate.rank, slots.data_ptr(), weights.data_ptr(), count, k, gelu,
        )  # fmt: skip
        if bad != -1:
            raise IndexError(f"slots[{bad // k}, {bad % k}] lies outside the pools, which have {of_gate.size} slots")
    if targets[0] is not gate:
        gate.copy_(targets[0])
    return None


def warm_up(dtype: torch.dtype) -> None:
    """Compile the loops for pools of `dtype`, or load them from Numba's cache."""
    for loops in (numba_loops.serial, numba_loops.parallel)[: 1 + (_threads() > 1)]:
        _compiled(loops, _KINDS[dtype])


def _compiled(loops: Any, kind: Any) -> Callable[..., int]:
    """The machine code of an entry for factors of this kind: calling it saves Numba's look at every argument's type."""
    whole = types.intp
    ends, sizes = types.UniTuple(whole, 5), types.UniTuple(whole, 6)
    made: Callable[..., int] = loops.compile((numba.typeof(kind), ends, *[whole] * 4, sizes, *[whole] * 7))
    return made


def _tables(slots: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Slots and weights as the loops read them."""
    if slots.dtype is not _int32 or not slots.is_contiguous():
        slots = slots.to(_int32).contiguous()
    if weights.dtype is not _float32 or not weights.is_contiguous():
        weights = weights.to(_float32).contiguous()
    return slots, weights


def _planned(
    x: torch.Tensor,
    pool: FactorPool,
    slots: torch.Tensor,
    weights: torch.Tensor,
    out: torch.Tensor,
    rows: torch.Tensor | None = None,
) -> tuple[_Plan, tuple[torch.Size, ...]] | str:
    """The plan of a pool, and the shapes of x, slots, weights and out, which fit; or why the call cannot run here."""
    A, Bt, scaling = pool
    plan: _Plan | None = getattr(A, "_numba_plan", None)
    if plan is None or not plan.still_holds(Bt, scaling, A.data_ptr()):
        check_shapes(x, pool, slots, weights, out, rows)
        reason = _pool_refusal(pool)
        if reason is not None:
            return reason
        plan = A._numba_plan = _Plan(pool)
    reason = _refusal(x, pool, weights, out)
    if reason is not None:
        return reason
    shapes = (x.shape, slots.shape, weights.shape, out.shape)
    if rows is not None or shapes != plan.checked:
        check_shapes(x, pool, slots, weights, out, rows)
        if rows is None:
            plan.checked = shapes
    return plan, shapes


class _Plan:
    """What the loops want to know of a pool. Kept at its tensor A: asking torch takes longer than a small call."""

    def __init__(self, pool: FactorPool) -> None:
        A, Bt, self.scaling = pool
        self.Bt = Bt
        self.kind = _KINDS[A.dtype]
        self.addresses = (A.data_ptr(), Bt.data_ptr(), self.scaling.data_ptr())
        self.size, self.rank, d_in = A.shape
        self.alike = (A.dtype, self.size, self.rank)
        scales = 1 if self.scaling.dim() == 1 else self.rank
        self.sizes = (A.stride(0), Bt.stride(0), d_in, Bt.shape[2], self.scaling.stride(0), scales)
        self.serial = _compiled(numba_loops.serial, self.kind)
        self.checked: tuple[torch.Size, ...] = ()  # shapes of x, slots, weights and out that were found to fit

    def still_holds(self, Bt: torch.Tensor, scaling: torch.Tensor, address: int) -> bool:
        """Whether the pool is the one that was planned for, at the same place."""
        there = (address, Bt.data_ptr(), scaling.data_ptr())
        return Bt is self.Bt and scaling is self.scaling and there == self.addresses


def _pool_refusal(pool: FactorPool) -> str | None:
    A, Bt, scaling = pool
    if not (A.is_cpu and Bt.is_cpu and scaling.is_cpu):
        return "the pool is not on the CPU"
    if A.dtype not in _KINDS or Bt.dtype is not A.dtype or scaling.dtype is not _float32:
        return f"the pool is stored as {A.dtype}, not float32, bfloat16 or int8"
    if not (_whole_slots(A) and _whole_slots(Bt) and (scaling.dim() == 1 or scaling.stride(1) == 1)):
        return "a slot's numbers are not contiguous"
    return None


def _refusal(x: torch.Tensor, pool: FactorPool, weights: torch.Tensor, out: torch.Tensor) -> str | None:
    if not (x.is_cpu and out.is_cpu):
        return "the tensors are not on the CPU"
    if x.dtype is not _float32 or out.dtype is not _float32:
        return f"activations are {x.dtype} and {out.dtype}, not float32"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *pool, weights, out)):
        return "a gradient is asked for"
    return None


def _whole_slots(factors: torch.Tensor) -> bool:
    """Whether the rank rows of a slot follow each other; slots may lie any distance apart."""
    return factors.is_contiguous() or (factors.dim() == 3 and factors[0].is_contiguous())


def _threads() -> int:
    """Threads to split over: torch's number, or 1 where no layer of Numba bears concurrent callers."""
    global _may_split
    if _may_split is None:
        _may_split = _has_threadsafe_layer()
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS) if _may_split else 1
    if threads > 1:
        numba.set_num_threads(threads)
    return threads


def _stay_serial() -> None:
    global _may_split
    _may_split = False


# GNU OpenMP ends a forked child that enters a parallel region when its parent has been in one.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stay_serial)


def _has_threadsafe_layer() -> bool:
    """True for TBB or OpenMP; the third layer, workqueue, aborts the process on concurrent calls."""
    if str(numba.config.THREADING_LAYER) == "workqueue":
        return False
    for name in ("tbbpool", "omppool"):
        try:
            importlib.import_module(f"numba.np.ufunc.{name}")
        except ImportError:
            continue
        return True
    return False
