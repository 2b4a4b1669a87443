# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# mypy: disable-error-code="call-arg,attr-defined,import-untyped"
"""The compiled loops of `sum_delta` on CPU, over rank-row storage. Nothing here touches torch.

Per row of x, the rank rows of its filled slots are listed once; then `hidden = gain * (A x)` and
`out += hidden @ Bt` run over blocks of four rank rows, so that x and out are read once a block and no
temporary is larger than k * r. bfloat16 is read as uint16 and shifted to float32 in registers, int8 is
converted there; an int8 pool's scales are part of the gain. All sums are float32.

Adapters are scattered over a pool that no cache holds, in pieces too short for the processor's own prefetching
to get going. So each block is read in chunks, and while a chunk is summed the same chunk of the block that
comes next is fetched: the next rank rows, Bt after A, and the next row's A after Bt. At k = 8, r = 4 and 16
rows that halves the time of a call (bench/RESULTS.md).
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

# Sums may be reordered and fused, which vectorising needs; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}
# Elements of a rank row that are summed before more is fetched ahead: 512 bytes of bfloat16. Half or twice as
# much is a few percent slower.
_CHUNK = 256
_LINE_BYTES = 64


@intrinsic
def _pointer(typingctx, address):
    """An integer address as a pointer that `numba.carray` takes."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.intp), codegen


@intrinsic
def _prefetch(typingctx, address):
    """Ask for the cache line at an address (locality 2 of 0 to 3: into the second-level cache and nearer)."""

    def codegen(context, builder, signature, args):
        number = ir.IntType(32)
        pointer = builder.inttoptr(args[0], cgutils.voidptr_t)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, number(0), number(2), number(1)])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


def _widen(value):
    """float32 of a stored element: itself, an int8 converted, or the bfloat16 whose bits a uint16 holds."""
    return (np.uint32(value) << 16).view(np.float32) if value.dtype == np.uint16 else np.float32(value)


@overload(_widen, inline="always")
def _widen_compiled(value):
    if isinstance(value, types.Float):
        return lambda value: value
    if value == types.int8:
        return lambda value: np.float32(value)
    return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)


@njit(nogil=True)
def _fetch(factors, index, m, count, first, last):
    """Prefetch elements [first, last) of the rank rows index[m:m + 4], as far as there are `count`."""
    width = factors.shape[1]
    size = factors.itemsize
    start = factors.ctypes.data
    for row in range(m, min(m + 4, count)):
        at = start + size * (index[row] * width + first)
        for offset in range(0, size * (last - first), _LINE_BYTES):
            _prefetch(at + offset)


@njit(fastmath=_FAST, nogil=True)
def _dot_four(x, a0, a1, a2, a3):
    h0 = h1 = h2 = h3 = np.float32(0.0)
    for d in range(x.shape[0]):
        v = x[d]
        h0 += _widen(a0[d]) * v
        h1 += _widen(a1[d]) * v
        h2 += _widen(a2[d]) * v
        h3 += _widen(a3[d]) * v
    return h0, h1, h2, h3


@njit(fastmath=_FAST, nogil=True)
def _project(x, A, index, gain, hidden, first, last, Bt):
    """hidden[m] = gain[m] * A[index[m]] . x for m in [first, last); Bt is what will be read after."""
    d_in, d_out = x.shape[0], Bt.shape[1]
    m = first
    while m + 4 <= last:
        a0, a1, a2, a3 = A[index[m]], A[index[m + 1]], A[index[m + 2]], A[index[m + 3]]
        h0 = h1 = h2 = h3 = np.float32(0.0)
        for c in range(0, d_in, _CHUNK):
            e = min(c + _CHUNK, d_in)
            if m + 4 < last:
                _fetch(A, index, m + 4, last, c, e)
            else:
                _fetch(Bt, index, 0, last, c * d_out // d_in, e * d_out // d_in)
            s0, s1, s2, s3 = _dot_four(x[c:e], a0[c:e], a1[c:e], a2[c:e], a3[c:e])
            h0 += s0
            h1 += s1
            h2 += s2
            h3 += s3
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
def _add_four(y, h0, h1, h2, h3, b0, b1, b2, b3):
    for d in range(y.shape[0]):
        y[d] += h0 * _widen(b0[d]) + h1 * _widen(b1[d]) + h2 * _widen(b2[d]) + h3 * _widen(b3[d])


@njit(fastmath=_FAST, nogil=True)
def _expand(hidden, Bt, index, count, out, first, last, A, following, waiting):
    """out[d] += sum_m hidden[m] * Bt[index[m], d] for d in [first, last); `following` are the `waiting` rank
    rows of A that will be read after."""
    d_in, width = A.shape[1], last - first
    m = 0
    while m + 4 <= count:
        h0, h1, h2, h3 = hidden[m], hidden[m + 1], hidden[m + 2], hidden[m + 3]
        b0, b1, b2, b3 = Bt[index[m]], Bt[index[m + 1]], Bt[index[m + 2]], Bt[index[m + 3]]
        for c in range(first, last, _CHUNK):
            e = min(c + _CHUNK, last)
            if m + 4 < count:
                _fetch(Bt, index, m + 4, count, c, e)
            else:
                _fetch(A, following, 0, waiting, (c - first) * d_in // width, (e - first) * d_in // width)
            _add_four(out[c:e], h0, h1, h2, h3, b0[c:e], b1[c:e], b2[c:e], b3[c:e])
        m += 4
    y = out[first:last]
    while m < count:
        b0 = Bt[index[m], first:last]
        h0 = hidden[m]
        for d in range(width):
            y[d] += h0 * _widen(b0[d])
        m += 1


@njit(fastmath=_FAST, nogil=True)
def _list_rank_rows(slots, weights, scaling, rank, index, gain):
    """Write the rank rows of filled slots of nonzero weight into index and gain; returns how many.

    scaling is (S, 1), or (S, rank) where each rank row has its own."""
    count = 0
    scales = scaling.shape[1] - 1
    for j in range(slots.shape[0]):
        slot, weight = np.int64(slots[j]), weights[j]
        if slot >= 0 and weight != 0.0:
            for i in range(rank):
                index[count] = slot * rank + i
                gain[count] = weight * scaling[slot, min(i, scales)]
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
def _rows(first, last, where, A, Bt, scaling, slots, weights, rank):
    """Rows [first, last) one after another; the list of the next row is made early, to fetch by."""
    most = slots.shape[1] * rank
    index = np.empty((2, most), np.int64)
    gain = np.empty((2, most), np.float32)
    hidden = np.empty(most, np.float32)
    side = 0
    count = _list_rank_rows(slots[first], weights[first], scaling, rank, index[0], gain[0])
    for t in range(first, last):
        other, waiting = 1 - side, 0
        if t + 1 < last:
            waiting = _list_rank_rows(slots[t + 1], weights[t + 1], scaling, rank, index[other], gain[other])
        if count:
            x, out = _ends(t, where, A.shape[1], Bt.shape[1])
            _project(x, A, index[side], gain[side], hidden, 0, count, Bt)
            _expand(hidden, Bt, index[side], count, out, 0, out.shape[0], A, index[other], waiting)
        side, count = other, waiting


@njit(fastmath=_FAST, nogil=True, parallel=True)
def _rows_apart(parts, where, A, Bt, scaling, slots, weights, rank):
    rows = slots.shape[0]
    for part in prange(parts):
        first, last = part * rows // parts, (part + 1) * rows // parts
        if first < last:
            _rows(first, last, where, A, Bt, scaling, slots, weights, rank)


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
        _project(x, A, index, gain, hidden, part * count // parts, (part + 1) * count // parts, Bt)
    for part in prange(parts):
        first, last = part * d_out // parts, (part + 1) * d_out // parts
        if first < last:
            _expand(hidden, Bt, index, count, out, first, last, A, index, 0)


@njit(nogil=True)
def _tables(scaling_at, scales, size, slots_at, weights_at, count, k):
    scaling = numba.carray(_pointer(scaling_at), (size, scales), np.float32)
    slots = numba.carray(_pointer(slots_at), (count, k), np.int32)
    weights = numba.carray(_pointer(weights_at), (count, k), np.float32)
    return scaling, slots, weights


@njit(nogil=True)
def _in_turn(where, places, A, Bt, size, rank, scaling_at, scales, slots_at, weights_at, count, k):
    scaling, slots, weights = _tables(scaling_at, scales, size, slots_at, weights_at, count, k)
    fault = _fault(slots, size, places, where)
    if fault == -1:
        _rows(0, count, where, A, Bt, scaling, slots, weights, rank)
    return fault


@njit(nogil=True)
def _apart(parts, where, places, A, Bt, size, rank, scaling_at, scales, slots_at, weights_at, count, k):
    scaling, slots, weights = _tables(scaling_at, scales, size, slots_at, weights_at, count, k)
    fault = _fault(slots, size, places, where)
    if fault == -1 and count == 1:
        _columns_apart(parts, where, A, Bt, scaling, slots, weights, rank)
    elif fault == -1:
        _rows_apart(parts, where, A, Bt, scaling, slots, weights, rank)
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
    x, dx, out, dy, rows, places, a, bt, size, rank, d_in, d_out, scaling, scales, slots, weights, count, k, parts
):
    A = numba.carray(_pointer(a), (size * rank, d_in), np.float32)
    Bt = numba.carray(_pointer(bt), (size * rank, d_out), np.float32)
    where = (x, dx, out, dy, rows)
    return _in_turn(where, places, A, Bt, size, rank, scaling, scales, slots, weights, count, k)


@_entry
def serial_bfloat16(
    x, dx, out, dy, rows, places, a, bt, size, rank, d_in, d_out, scaling, scales, slots, weights, count, k, parts
):
    A = numba.carray(_pointer(a), (size * rank, d_in), np.uint16)
    Bt = numba.carray(_pointer(bt), (size * rank, d_out), np.uint16)
    where = (x, dx, out, dy, rows)
    return _in_turn(where, places, A, Bt, size, rank, scaling, scales, slots, weights, count, k)


@_entry
def serial_int8(
    x, dx, out, dy, rows, places, a, bt, size, rank, d_in, d_out, scaling, scales, slots, weights, count, k, parts
):
    A = numba.carray(_pointer(a), (size * rank, d_in), np.int8)
    Bt = numba.carray(_pointer(bt), (size * rank, d_out), np.int8)
    where = (x, dx, out, dy, rows)
    return _in_turn(where, places, A, Bt, size, rank, scaling, scales, slots, weights, count, k)


@_entry
def parallel_float32(
    x, dx, out, dy, rows, places, a, bt, size, rank, d_in, d_out, scaling, scales, slots, weights, count, k, parts
):
    A = numba.carray(_pointer(a), (size * rank, d_in), np.float32)
    Bt = numba.carray(_pointer(bt), (size * rank, d_out), np.float32)
    where = (x, dx, out, dy, rows)
    return _apart(parts, where, places, A, Bt, size, rank, scaling, scales, slots, weights, count, k)


@_entry
def parallel_bfloat16(
    x, dx, out, dy, rows, places, a, bt, size, rank, d_in, d_out, scaling, scales, slots, weights, count, k, parts
):
    A = numba.carray(_pointer(a), (size * rank, d_in), np.uint16)
    Bt = numba.carray(_pointer(bt), (size * rank, d_out), np.uint16)
    where = (x, dx, out, dy, rows)
    return _apart(parts, where, places, A, Bt, size, rank, scaling, scales, slots, weights, count, k)


@_entry
def parallel_int8(
    x, dx, out, dy, rows, places, a, bt, size, rank, d_in, d_out, scaling, scales, slots, weights, count, k, parts
):
    A = numba.carray(_pointer(a), (size * rank, d_in), np.int8)
    Bt = numba.carray(_pointer(bt), (size * rank, d_out), np.int8)
    where = (x, dx, out, dy, rows)
    return _apart(parts, where, places, A, Bt, size, rank, scaling, scales, slots, weights, count, k)
