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
def _pointer(typingctx, address, kind):
    """An integer address as a pointer to numbers of the type of `kind`, as `numba.carray` takes it."""
    target = types.CPointer(kind)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(target))

    return target(types.intp, kind), codegen


@intrinsic
def _prefetch(typingctx, address):
    """Ask for the cache line at an address (locality 2 of 0 to 3: into the second-level cache and nearer)."""

    def codegen(context, builder, signature, args):
        number = cgutils.int32_t
        pointer = builder.inttoptr(args[0], cgutils.voidptr_t)
        kind = cgutils.ir.FunctionType(cgutils.ir.VoidType(), [cgutils.voidptr_t, number, number, number])
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
    """Prefetch elements [first, last) of the rank rows at index[m:m + 4], as far as there are `count`."""
    size = factors.itemsize
    for row in range(m, min(m + 4, count)):
        at = factors.ctypes.data + size * (index[row] + first)
        for offset in range(0, size * (last - first), _LINE_BYTES):
            _prefetch(at + offset)


@njit(nogil=True)
def _block(factors, index, m, width):
    """Rank rows m to m + 3."""
    i0, i1, i2, i3 = index[m], index[m + 1], index[m + 2], index[m + 3]
    return factors[i0 : i0 + width], factors[i1 : i1 + width], factors[i2 : i2 + width], factors[i3 : i3 + width]


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
def _project(x, A, index, gain, hidden, first, last, Bt, after, d_out):
    """hidden[m] = gain[m] * A[index[m]:] . x for m in [first, last); the rows `after` of Bt are read next."""
    d_in = x.shape[0]
    m = first
    while m + 4 <= last:
        a0, a1, a2, a3 = _block(A, index, m, d_in)
        h0 = h1 = h2 = h3 = np.float32(0.0)
        for c in range(0, d_in, _CHUNK):
            e = min(c + _CHUNK, d_in)
            if m + 4 < last:
                _fetch(A, index, m + 4, last, c, e)
            else:
                _fetch(Bt, after, 0, last, c * d_out // d_in, e * d_out // d_in)
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
        a0 = A[index[m] : index[m] + d_in]
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
def _expand(hidden, Bt, index, count, out, first, last, A, following, waiting, d_in):
    """out[d] += sum_m hidden[m] * Bt[index[m] + d] for d in [first, last); the `waiting` rank rows `following`
    of A are read next."""
    d_out, width = out.shape[0], last - first
    m = 0
    while m + 4 <= count:
        h0, h1, h2, h3 = hidden[m], hidden[m + 1], hidden[m + 2], hidden[m + 3]
        b0, b1, b2, b3 = _block(Bt, index, m, d_out)
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
        b0 = Bt[index[m] + first : index[m] + last]
        h0 = hidden[m]
        for d in range(width):
            y[d] += h0 * _widen(b0[d])
        m += 1


# The pool of one target as the loops take it: A and Bt flat, their steps from slot to slot and their widths,
# scaling flat, its step, and how many scales a slot has (1, or one for each rank row).


@njit(fastmath=_FAST, nogil=True)
def _list_rank_rows(slots, weights, rank, sizes, scaling, index, gain):
    """Write where the rank rows of filled slots of nonzero weight begin into index[0] (of A) and index[1] (of
    Bt), and their gains; returns how many."""
    a_step, bt_step, d_in, d_out, scale_step, scales = sizes
    count = 0
    for j in range(slots.shape[0]):
        slot, weight = np.int64(slots[j]), weights[j]
        if slot >= 0 and weight != 0.0:
            for i in range(rank):
                index[0, count] = slot * a_step + i * d_in
                index[1, count] = slot * bt_step + i * d_out
                gain[count] = weight * scaling[slot * scale_step + min(i, scales - 1)]
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
    return numba.carray(_pointer(where[4] + 8 * t, np.int64(0)), 1)[0]


@njit(nogil=True)
def _ends(t, where, d_in, d_out):
    place = _place(t, where)
    x = numba.carray(_pointer(where[0] + 4 * where[1] * place, np.float32(0)), d_in)
    out = numba.carray(_pointer(where[2] + 4 * where[3] * place, np.float32(0)), d_out)
    return x, out


@njit(fastmath=_FAST, nogil=True)
def _rows(first, last, where, A, Bt, scaling, sizes, slots, weights, rank):
    """Rows [first, last) one after another; the list of the next row is made early, to fetch by."""
    d_in, d_out = sizes[2], sizes[3]
    most = slots.shape[1] * rank
    index = np.empty((2, 2, most), np.int64)
    gain = np.empty((2, most), np.float32)
    hidden = np.empty(most, np.float32)
    side = 0
    count = _list_rank_rows(slots[first], weights[first], rank, sizes, scaling, index[0], gain[0])
    for t in range(first, last):
        other, waiting = 1 - side, 0
        if t + 1 < last:
            waiting = _list_rank_rows(slots[t + 1], weights[t + 1], rank, sizes, scaling, index[other], gain[other])
        if count:
            x, out = _ends(t, where, d_in, d_out)
            of_a, of_bt = index[side, 0], index[side, 1]
            _project(x, A, of_a, gain[side], hidden, 0, count, Bt, of_bt, d_out)
            _expand(hidden, Bt, of_bt, count, out, 0, d_out, A, index[other, 0], waiting, d_in)
        side, count = other, waiting


@njit(fastmath=_FAST, nogil=True, parallel=True)
def _rows_apart(parts, where, A, Bt, scaling, sizes, slots, weights, rank):
    rows = slots.shape[0]
    for part in prange(parts):
        first, last = part * rows // parts, (part + 1) * rows // parts
        if first < last:
            _rows(first, last, where, A, Bt, scaling, sizes, slots, weights, rank)


@njit(fastmath=_FAST, nogil=True, parallel=True)
def _columns_apart(parts, where, A, Bt, scaling, sizes, slots, weights, rank):
    """One row: its rank rows, and after them its output columns, in `parts` parts."""
    d_in, d_out = sizes[2], sizes[3]
    most = slots.shape[1] * rank
    index = np.empty((2, most), np.int64)
    gain = np.empty(most, np.float32)
    hidden = np.empty(most, np.float32)
    count = _list_rank_rows(slots[0], weights[0], rank, sizes, scaling, index, gain)
    x, out = _ends(0, where, d_in, d_out)
    for part in prange(parts):
        first, last = part * count // parts, (part + 1) * count // parts
        _project(x, A, index[0], gain, hidden, first, last, Bt, index[1], d_out)
    for part in prange(parts):
        first, last = part * d_out // parts, (part + 1) * d_out // parts
        if first < last:
            _expand(hidden, Bt, index[1], count, out, first, last, A, index[0], 0, d_in)


@njit(nogil=True)
def _flat(at, kind, step, size, inner):
    """The numbers from an address to the end of the last slot's `inner`; slots are `step` apart."""
    return numba.carray(_pointer(at, kind), (size - 1) * step + inner)


@njit(nogil=True)
def _arrays(kind, a, bt, scaling, sizes, size, rank, slots, weights, count, k):
    A = _flat(a, kind, sizes[0], size, rank * sizes[2])
    Bt = _flat(bt, kind, sizes[1], size, rank * sizes[3])
    scales = _flat(scaling, np.float32(0), sizes[4], size, sizes[5])
    mounted, gates = _pointer(slots, np.int32(0)), _pointer(weights, np.float32(0))
    return A, Bt, scales, numba.carray(mounted, (count, k)), numba.carray(gates, (count, k))


def _entry(function):
    """Compile at the first call; the code is kept on disk, unless no folder can be written to.

    Entries take plain integers: reading addresses off a tensor is cheaper than making an array of it.
    """
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


@_entry
def serial(kind, where, places, a, bt, scaling, sizes, size, rank, slots, weights, count, k, parts):
    """`sum_delta` in the calling thread; -1, or which slot lies outside the pool, or -2 for such a row.

    `kind` is a number of the type in which factors are stored; a, bt, scaling, slots and weights are addresses.
    """
    A, Bt, scales, slots, weights = _arrays(kind, a, bt, scaling, sizes, size, rank, slots, weights, count, k)
    fault = _fault(slots, size, places, where)
    if fault == -1:
        _rows(0, count, where, A, Bt, scales, sizes, slots, weights, rank)
    return fault


@_entry
def parallel(kind, where, places, a, bt, scaling, sizes, size, rank, slots, weights, count, k, parts):
    """The same in `parts` threads: over output columns where there is one row, else over rows."""
    A, Bt, scales, slots, weights = _arrays(kind, a, bt, scaling, sizes, size, rank, slots, weights, count, k)
    fault = _fault(slots, size, places, where)
    if fault == -1 and count == 1:
        _columns_apart(parts, where, A, Bt, scales, sizes, slots, weights, rank)
    elif fault == -1:
        _rows_apart(parts, where, A, Bt, scales, sizes, slots, weights, rank)
    return fault
