# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# mypy: disable-error-code="call-arg,attr-defined,import-untyped,var-annotated,assignment"
"""The compiled loops of `sum_delta` on CPU, over rank-row storage. Nothing here touches torch.

Per row of x, the rank rows of its filled slots are listed once; then `hidden = gain * (A x)` and
`out += hidden @ Bt` run over blocks of four rank rows, so that x and out are read once a block and no
temporary is larger than k * r. What is stored is widened to float32 in registers; an int8 pool's scales are
part of the gain. All sums are float32.

Adapters are scattered over a pool that no near cache holds, in pieces too short for the processor's own prefetching
to get going. So while a line of a block is summed, the same line of the block that comes next is fetched: the next rank
rows, Bt after A, and the next row's A after Bt. Over short rank rows that halves the time of a call
(bench/RESULTS.md).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numba
import numpy as np
from numba import njit, prange

from atomlora.kernels.numba_vectors import LINE_BYTES, add_lines, dot_lines, pointer, prefetch, widen

# Sums may be reordered and fused, which vectorising needs; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz"}
# Where what comes next is of another width, lines that are summed before more is fetched.
_STRETCH = 8


@njit(nogil=True)
def _addresses(at, size, index, m):
    """Of rank rows m to m + 3."""
    return (
        at + size * index[m],
        at + size * index[m + 1],
        at + size * index[m + 2],
        at + size * index[m + 3],
    )


@njit(nogil=True)
def _onward(rows, distance):
    return rows[0] + distance, rows[1] + distance, rows[2] + distance, rows[3] + distance


@njit(nogil=True)
def _fetch(factors, index, count, first, last):
    """Fetch elements [first, last) of the rank rows at index[:4], if there are any."""
    size = factors.itemsize
    for row in range(min(4, count)):
        at = factors.ctypes.data + size * index[row]
        for offset in range(size * first, size * last, LINE_BYTES):
            prefetch(at + offset)


@njit(fastmath=FAST, nogil=True)
def project(x, A, index, gain, hidden, first, last, Bt, after, count, d_out):
    """hidden[m] = gain[m] * A[index[m]:] . x for m in [first, last), multiples of four; the `count` rank rows `after`
    of Bt are read next."""
    d_in, size = x.shape[0], A.itemsize
    step = LINE_BYTES // size
    lines = d_in // step
    at, x_at = A.ctypes.data, x.ctypes.data
    for m in range(first, last, 4):
        rows = _addresses(at, size, index, m)
        if m + 4 < last:
            h0, h1, h2, h3 = dot_lines(A[0], x_at, rows, _addresses(at, size, index, m + 4), lines)
        else:
            h0 = h1 = h2 = h3 = np.float32(0.0)
            for line in range(0, lines, _STRETCH):
                end = min(line + _STRETCH, lines)
                _fetch(Bt, after, count, line * d_out // lines, end * d_out // lines)
                here = _onward(rows, LINE_BYTES * line)
                s0, s1, s2, s3 = dot_lines(A[0], x_at + 4 * step * line, here, here, end - line)
                h0 += s0
                h1 += s1
                h2 += s2
                h3 += s3
        for d in range(lines * step, d_in):
            v = x[d]
            h0 += widen(A[index[m] + d]) * v
            h1 += widen(A[index[m + 1] + d]) * v
            h2 += widen(A[index[m + 2] + d]) * v
            h3 += widen(A[index[m + 3] + d]) * v
        hidden[m] = gain[m] * h0
        hidden[m + 1] = gain[m + 1] * h1
        hidden[m + 2] = gain[m + 2] * h2
        hidden[m + 3] = gain[m + 3] * h3


@njit(fastmath=FAST, nogil=True)
def expand(hidden, Bt, index, count, out, first, last, A, following, waiting, d_in):
    """out[d] += sum_m hidden[m] * Bt[index[m] + d] for d in [first, last), over `count` rank rows, a multiple of four;
    the `waiting` rank rows `following` of A are read next."""
    size = Bt.itemsize
    step = LINE_BYTES // size
    lines = (last - first) // step
    at, out_at = Bt.ctypes.data + size * first, out.ctypes.data + 4 * first
    for m in range(0, count, 4):
        h0, h1, h2, h3 = hidden[m], hidden[m + 1], hidden[m + 2], hidden[m + 3]
        rows = _addresses(at, size, index, m)
        if m + 4 < count:
            add_lines(Bt[0], out_at, (h0, h1, h2, h3), rows, _addresses(at, size, index, m + 4), lines)
        else:
            for line in range(0, lines, _STRETCH):
                end = min(line + _STRETCH, lines)
                _fetch(A, following, waiting, line * d_in // lines, end * d_in // lines)
                here = _onward(rows, LINE_BYTES * line)
                add_lines(Bt[0], out_at + 4 * step * line, (h0, h1, h2, h3), here, here, end - line)
        for d in range(first + lines * step, last):
            b0, b1, b2, b3 = Bt[index[m] + d], Bt[index[m + 1] + d], Bt[index[m + 2] + d], Bt[index[m + 3] + d]
            out[d] += h0 * widen(b0) + h1 * widen(b1) + h2 * widen(b2) + h3 * widen(b3)


# The pool of one target as the loops take it: A and Bt flat, their steps from slot to slot and their widths,
# scaling flat, its step, and how many scales a slot has (1, or one for each rank row).


@njit(fastmath=FAST, nogil=True)
def list_rank_rows(slots, weights, rank, sizes, scaling, index, gain):
    """Write where the rank rows of filled slots of nonzero weight begin into index[0] (of A) and index[1] (of
    Bt), and their gains; returns how many, filled up to a multiple of four with the last one at gain 0."""
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
    while count % 4 != 0:
        index[0, count], index[1, count], gain[count] = index[0, count - 1], index[1, count - 1], 0.0
        count += 1
    return count


@njit(nogil=True)
def fault(slots, size, places, where):
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
    return numba.carray(pointer(where[4] + 8 * t, np.int64(0)), 1)[0]


@njit(nogil=True)
def _ends(t, where, d_in, d_out):
    place = _place(t, where)
    x = numba.carray(pointer(where[0] + 4 * where[1] * place, np.float32(0)), d_in)
    out = numba.carray(pointer(where[2] + 4 * where[3] * place, np.float32(0)), d_out)
    return x, out


@njit(fastmath=FAST, nogil=True)
def _rows(first, last, where, A, Bt, scaling, sizes, slots, weights, rank):
    """Rows [first, last) one after another; the list of the next row is made early, to fetch by."""
    d_in, d_out = sizes[2], sizes[3]
    most = (slots.shape[1] * rank + 3) // 4 * 4
    index = np.empty((2, 2, most), np.int64)
    gain = np.empty((2, most), np.float32)
    hidden = np.empty(most, np.float32)
    side = 0
    count = list_rank_rows(slots[first], weights[first], rank, sizes, scaling, index[0], gain[0])
    for t in range(first, last):
        other, waiting = 1 - side, 0
        if t + 1 < last:
            waiting = list_rank_rows(slots[t + 1], weights[t + 1], rank, sizes, scaling, index[other], gain[other])
        if count:
            x, out = _ends(t, where, d_in, d_out)
            of_a, of_bt = index[side, 0], index[side, 1]
            project(x, A, of_a, gain[side], hidden, 0, count, Bt, of_bt, count, d_out)
            expand(hidden, Bt, of_bt, count, out, 0, d_out, A, index[other, 0], waiting, d_in)
        side, count = other, waiting


@njit(fastmath=FAST, nogil=True, parallel=True)
def _rows_apart(parts, where, A, Bt, scaling, sizes, slots, weights, rank):
    rows = slots.shape[0]
    for part in prange(parts):
        first, last = part * rows // parts, (part + 1) * rows // parts
        if first < last:
            _rows(first, last, where, A, Bt, scaling, sizes, slots, weights, rank)


@njit(fastmath=FAST, nogil=True, parallel=True)
def _columns_apart(parts, where, A, Bt, scaling, sizes, slots, weights, rank):
    """One row: its rank rows, and after them its output columns, in `parts` parts."""
    d_in, d_out = sizes[2], sizes[3]
    most = (slots.shape[1] * rank + 3) // 4 * 4
    index = np.empty((2, most), np.int64)
    gain = np.empty(most, np.float32)
    hidden = np.empty(most, np.float32)
    count = list_rank_rows(slots[0], weights[0], rank, sizes, scaling, index, gain)
    x, out = _ends(0, where, d_in, d_out)
    for part in prange(parts):
        first, last = part * (count // 4) // parts * 4, (part + 1) * (count // 4) // parts * 4
        project(x, A, index[0], gain, hidden, first, last, Bt, index[1], count, d_out)
    for part in prange(parts):
        first, last = part * d_out // parts, (part + 1) * d_out // parts
        if first < last:
            expand(hidden, Bt, index[1], count, out, first, last, A, index[0], 0, d_in)


@njit(nogil=True)
def _flat(at, kind, step, size, inner):
    """The numbers from an address to the end of the last slot's `inner`; slots are `step` apart."""
    return numba.carray(pointer(at, kind), (size - 1) * step + inner)


@njit(nogil=True)
def arrays(kind, a, bt, scaling, sizes, size, rank, slots, weights, count, k):
    A = _flat(a, kind, sizes[0], size, rank * sizes[2])
    Bt = _flat(bt, kind, sizes[1], size, rank * sizes[3])
    scales = _flat(scaling, np.float32(0), sizes[4], size, sizes[5])
    mounted, gates = pointer(slots, np.int32(0)), pointer(weights, np.float32(0))
    return A, Bt, scales, numba.carray(mounted, (count, k)), numba.carray(gates, (count, k))


_SOURCES = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("numba_*.py")))
_BUILT_FROM = hashlib.sha256(_SOURCES).hexdigest()[:8]


def entry(function):
    """Compile at the first call; the code is kept on disk, unless no folder can be written to.

    Numba takes what it kept for good as long as the function's own file is the same, so what the files hold that it
    calls is part of the name. Entries take plain integers: reading addresses off a tensor is cheaper than making an
    array of it.
    """
    function.__qualname__ += "-" + _BUILT_FROM
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


@entry
def serial(kind, where, places, a, bt, scaling, sizes, size, rank, slots, weights, count, k, parts):
    """`sum_delta` in the calling thread; -1, or which slot lies outside the pool, or -2 for such a row.

    `kind` is a number of the type in which factors are stored; a, bt, scaling, slots and weights are addresses.
    """
    A, Bt, scales, slots, weights = arrays(kind, a, bt, scaling, sizes, size, rank, slots, weights, count, k)
    bad = fault(slots, size, places, where)
    if bad == -1:
        _rows(0, count, where, A, Bt, scales, sizes, slots, weights, rank)
    return bad


@entry
def parallel(kind, where, places, a, bt, scaling, sizes, size, rank, slots, weights, count, k, parts):
    """The same in `parts` threads: over output columns where there is one row, else over rows."""
    A, Bt, scales, slots, weights = arrays(kind, a, bt, scaling, sizes, size, rank, slots, weights, count, k)
    bad = fault(slots, size, places, where)
    if bad == -1 and count == 1:
        _columns_apart(parts, where, A, Bt, scales, sizes, slots, weights, rank)
    elif bad == -1:
        _rows_apart(parts, where, A, Bt, scales, sizes, slots, weights, rank)
    return bad
