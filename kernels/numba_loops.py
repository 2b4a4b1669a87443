# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# mypy: disable-error-code="call-arg,attr-defined,import-untyped"
"""The compiled loops of `sum_delta` on CPU, over rank-row storage. Nothing here touches torch.

Per row of x, the rank rows of its filled slots are listed once; then `hidden = gain * (A x)` and
`out += hidden @ Bt` run over blocks of four rank rows, so that x and out are read once a block and no
temporary is larger than k * r. bfloat16 is read as uint16 and shifted to float32 in registers. All sums are
float32.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

# Sums may be reordered and fused, which vectorising needs; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}


@intrinsic
def _pointer(typingctx, address):
    """An integer address as a pointer that `numba.carray` takes."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.intp), codegen


def _widen(value):
    """float32 of a stored element: itself, or the bfloat16 whose bits a uint16 holds."""
    return (np.uint32(value) << 16).view(np.float32) if value.dtype == np.uint16 else value


@overload(_widen, inline="always")
def _widen_compiled(value):
    if isinstance(value, types.Float):
        return lambda value: value
    return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)


@njit(fastmath=_FAST, nogil=True)
def _project(x, A, index, gain, hidden, first, last):
    """hidden[m] = gain[m] * A[index[m]] . x for m in [first, last)."""
    d_in = x.shape[0]
    m = first
    while m + 4 <= last:
        a0, a1, a2, a3 = A[index[m]], A[index[m + 1]], A[index[m + 2]], A[index[m + 3]]
        h0 = h1 = h2 = h3 = np.float32(0.0)
        for d in range(d_in):
            v = x[d]
            h0 += _widen(a0[d]) * v
            h1 += _widen(a1[d]) * v
            h2 += _widen(a2[d]) * v
            h3 += _widen(a3[d]) * v
        hidden[m] = gain[m] * h0
        hidden[m + 1] = gain[m + 1] * h1
        hidden[m + 2] = gain[m + 2] * h2
        hidden[m + 3] = gain[m + 3] * h3
        m += 4
    while m < last:
        a0 = A[index[m]]
        h0 = np.float32(0.0)
        for d in range(d_in):
            h0 += _widen(a0[d]) * x[d]
        hidden[m] = gain[m] * h0
        m += 1


@njit(fastmath=_FAST, nogil=True)
def _expand(hidden, Bt, index, count, out, first, last):
    """out[d] += sum_m hidden[m] * Bt[index[m], d] for d in [first, last)."""
    y = out[first:last]
    width = last - first
    m = 0
    while m + 4 <= count:
        b0, b1 = Bt[index[m], first:last], Bt[index[m + 1], first:last]
        b2, b3 = Bt[index[m + 2], first:last], Bt[index[m + 3], first:last]
        h0, h1, h2, h3 = hidden[m], hidden[m + 1], hidden[m + 2], hidden[m + 3]
        for d in range(width):
            y[d] += h0 * _widen(b0[d]) + h1 * _widen(b1[d]) + h2 * _widen(b2[d]) + h3 * _widen(b3[d])
        m += 4
    while m < count:
        b0 = Bt[index[m], first:last]
        h0 = hidden[m]
        for d in range(width):
            y[d] += h0 * _widen(b0[d])
        m += 1


@njit(fastmath=_FAST, nogil=True)
def _list_rank_rows(slots, weights, scaling, rank, index, gain):
    """Write the rank rows of filled slots of nonzero weight into index and gain; returns how many."""
    count = 0
    for j in range(slots.shape[0]):
        slot, weight = slots[j], weights[j]
        if slot >= 0 and weight != 0.0:
            for i in range(rank):
                index[count] = np.int64(slot) * rank + i
                gain[count] = weight * scaling[slot]
                count += 1
    return count


@njit(nogil=True)
def _fault(slots, size, places, where):
    """-1 if every slot and row lies inside, -2 for a row that does not, else the position of a bad slot."""
    for t in range(slots.shape[0]):
        place = _place(t, where)
        if place < 0 or place >= places:
            return -2
        for j in range(slots.shape[1]):
            if slots[t, j] >= size:
                return t * slots.shape[1] + j
    return -1


# `where` is (x address, x row step, out address, out row step, rows address or 0), steps in elements.


@njit(nogil=True)
def _place(t, where):
    """The row of x and out that row t of slots speaks of."""
    if where[4] == 0:
        return t
    return numba.carray(_pointer(where[4] + 8 * t), 1, np.int64)[0]


@njit(nogil=True)
def _ends(t, where, d_in, d_out):
    place = _place(t, where)
    x = numba.carray(_pointer(where[0] + 4 * where[1] * place), d_in, np.float32)
    out = numba.carray(_pointer(where[2] + 4 * where[3] * place), d_out, np.float32)
    return x, out


@njit(fastmath=_FAST, nogil=True)
def _row(t, where, A, Bt, scaling, slots, weights, rank):
    most = slots.shape[1] * rank
    index = np.empty(most, np.int64)
    gain = np.empty(most, np.float32)
    hidden = np.empty(most, np.float32)
    count = _list_rank_rows(slots[t], weights[t], scaling, rank, index, gain)
    if count:
        x, out = _ends(t, where, A.shape[1], Bt.shape[1])
        _project(x, A, index, gain, hidden, 0, count)
        _expand(hidden, Bt, index, count, out, 0, out.shape[0])


@njit(fastmath=_FAST, nogil=True)
def _rows_in_turn(where, A, Bt, scaling, slots, weights, rank):
    for t in range(slots.shape[0]):
        _row(t, where, A, Bt, scaling, slots, weights, rank)


@njit(fastmath=_FAST, nogil=True, parallel=True)
def _rows_apart(where, A, Bt, scaling, slots, weights, rank):
    for t in prange(slots.shape[0]):
        _row(t, where, A, Bt, scaling, slots, weights, rank)


@njit(fastmath=_FAST, nogil=True, parallel=True)
def _columns_apart(parts, where, A, Bt, scaling, slots, weights, rank):
    """One row: its rank rows, and after them its output columns, in `parts` parts."""
    most = slots.shape[1] * rank
    index = np.empty(most, np.int64)
    gain = np.empty(most, np.float32)
    hidden = np.empty(most, np.float32)
    count = _list_rank_rows(slots[0], weights[0], scaling, rank, index, gain)
    x, out = _ends(0, where, A.shape[1], Bt.shape[1])
    d_out = Bt.shape[1]
    for part in prange(parts):
        _project(x, A, index, gain, hidden, part * count // parts, (part + 1) * count // parts)
    for part in prange(parts):
        _expand(hidden, Bt, index, count, out, part * d_out // parts, (part + 1) * d_out // parts)


@njit(nogil=True)
def _tables(scaling_at, size, slots_at, weights_at, count, k):
    scaling = numba.carray(_pointer(scaling_at), size, np.float32)
    slots = numba.carray(_pointer(slots_at), (count, k), np.int32)
    weights = numba.carray(_pointer(weights_at), (count, k), np.float32)
    return scaling, slots, weights


@njit(nogil=True)
def _in_turn(where, places, A, Bt, size, rank, scaling_at, slots_at, weights_at, count, k):
    scaling, slots, weights = _tables(scaling_at, size, slots_at, weights_at, count, k)
    fault = _fault(slots, size, places, where)
    if fault == -1:
        _rows_in_turn(where, A, Bt, scaling, slots, weights, rank)
    return fault


@njit(nogil=True)
def _apart(parts, where, places, A, Bt, size, rank, scaling_at, slots_at, weights_at, count, k):
    scaling, slots, weights = _tables(scaling_at, size, slots_at, weights_at, count, k)
    fault = _fault(slots, size, places, where)
    if fault == -1 and count == 1:
        _columns_apart(parts, where, A, Bt, scaling, slots, weights, rank)
    elif fault == -1:
        _rows_apart(where, A, Bt, scaling, slots, weights, rank)
    return fault


def _entry(function):
    """Compile at the first call; the code is kept on disk, unless no folder can be written to.

    Entries take plain integers: reading addresses off a tensor is cheaper than making an array of it.
    """
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


@_entry
def serial_float32(
    x, dx, out, dy, rows, places, a, bt, size, rank, d_in, d_out, scaling, slots, weights, count, k, parts
):
    A = numba.carray(_pointer(a), (size * rank, d_in), np.float32)
    Bt = numba.carray(_pointer(bt), (size * rank, d_out), np.float32)
    return _in_turn((x, dx, out, dy, rows), places, A, Bt, size, rank, scaling, slots, weights, count, k)


@_entry
def serial_bfloat16(
    x, dx, out, dy, rows, places, a, bt, size, rank, d_in, d_out, scaling, slots, weights, count, k, parts
):
    A = numba.carray(_pointer(a), (size * rank, d_in), np.uint16)
    Bt = numba.carray(_pointer(bt), (size * rank, d_out), np.uint16)
    return _in_turn((x, dx, out, dy, rows), places, A, Bt, size, rank, scaling, slots, weights, count, k)


@_entry
def parallel_float32(
    x, dx, out, dy, rows, places, a, bt, size, rank, d_in, d_out, scaling, slots, weights, count, k, parts
):
    A = numba.carray(_pointer(a), (size * rank, d_in), np.float32)
    Bt = numba.carray(_pointer(bt), (size * rank, d_out), np.float32)
    return _apart(parts, (x, dx, out, dy, rows), places, A, Bt, size, rank, scaling, slots, weights, count, k)


@_entry
def parallel_bfloat16(
    x, dx, out, dy, rows, places, a, bt, size, rank, d_in, d_out, scaling, slots, weights, count, k, parts
):
    A = numba.carray(_pointer(a), (size * rank, d_in), np.uint16)
    Bt = numba.carray(_pointer(bt), (size * rank, d_out), np.uint16)
    return _apart(parts, (x, dx, out, dy, rows), places, A, Bt, size, rank, scaling, slots, weights, count, k)
