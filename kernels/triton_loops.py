# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,import-untyped,attr-defined"
"""The device code of `sum_delta` on a GPU, in Triton. Nothing here touches torch.

Two launches serve up to three targets that share their input x (`SLICES`, a grid axis):

- shrink: partial[slice, split, t, m] = gain[t, m] * A[m] . x[t] over one part of d_in. The k atoms of a row are one
  adapter of rank k * r, its rank rows m taken BLOCK_M at a time; weights and scaling are folded in here.
- expand: y[t] += sum over m of (sum over splits of partial) * Bt[m], so y is read and written once;
- expand_gated in its place, for gate and up of an MLP: act(gate[t] + ...) * (up[t] + ...), written over gate.

Every part of d_in has a place of its own in `partial`, so nothing is zeroed, nothing is atomic, and the same call
gives the same bits. Grids depend on shapes alone and an empty slot is masked: a captured graph replays with other
atoms. Sums are float32.

Rows that share atoms: rows are the fastest axis of the grid, so rows at the same columns run side by side and find
each other's factors in the second-level cache. With BLOCK_T > 1 a tile of rows whose slots are all the same (the
tokens of one request) reads each factor once and multiplies on tensor cores; other tiles go row by row. Sorting
(row, atom) pairs by atom, as SGMV (Punica, arXiv 2310.18547) does, would make expand add to y once per atom.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _one_of(number, first, second, third, SLICES: tl.constexpr):
    """The argument of slice `number`."""
    chosen = first
    if SLICES > 1:
        chosen = tl.where(number == 1, second, chosen)
    if SLICES > 2:
        chosen = tl.where(number == 2, third, chosen)
    return chosen


@triton.jit
def _mounted(slots, weights, t, m, k, size, RANK: tl.constexpr):
    """Of row t's rank rows m: their slots, positions in them, weights, and which there are."""
    j = m // RANK
    inside = j < k
    slot = tl.load(slots + t * k + j, mask=inside, other=-1)
    weight = tl.load(weights + t * k + j, mask=inside, other=0.0)
    filled = inside & (slot >= 0) & (slot < size) & (weight != 0)
    return slot.to(tl.int64), m % RANK, weight, filled


@triton.jit
def _same_slots(slots, t, count, k, BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr):
    """Whether rows t to t + BLOCK_T, as far as there are, have the same slots."""
    rows = t + tl.arange(0, BLOCK_T)
    j = tl.arange(0, BLOCK_J)
    inside = (rows < count)[:, None] & (j < k)[None, :]
    first = tl.load(slots + t * k + j, mask=j < k, other=-1)
    mine = tl.load(slots + rows[:, None] * k + j[None, :], mask=inside, other=-1)
    return tl.sum(tl.sum((inside & (mine != first[None, :])).to(tl.int32), axis=1), axis=0) == 0


@triton.jit
def _place(rows, t, HAS_ROWS: tl.constexpr):
    """The row of x and y that row t of slots speaks of."""
    place = t
    if HAS_ROWS:
        place = tl.load(rows + t)
    return place.to(tl.int64)


@triton.jit
def _shrink_row(
    x, rows, x_step, A, a_step, scaling, scale_step, slots, weights, partial, t, m, begin, end, k, size, d_in,
    RANK: tl.constexpr, SCALES: tl.constexpr, HAS_ROWS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    slot, i, weight, filled = _mounted(slots, weights, t, m, k, size, RANK)
    x += _place(rows, t, HAS_ROWS) * x_step
    at = A + (slot * a_step + i * d_in)[:, None]
    products = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for start in range(begin, end, BLOCK_K):
        d = start + tl.arange(0, BLOCK_K)
        inside = d < end
        v = tl.load(x + d, mask=inside, other=0.0).to(tl.float32)
        a = tl.load(at + d[None, :], mask=filled[:, None] & inside[None, :], other=0.0).to(tl.float32)
        products += a * v[None, :]
    scale = tl.load(scaling + slot * scale_step + i % SCALES, mask=filled, other=0.0)
    hidden = tl.where(filled, weight * scale * tl.sum(products, axis=1), 0.0)
    tl.store(partial + t * (k * RANK) + m, hidden, mask=m < k * RANK)


@triton.jit
def shrink(
    x, rows, x_step, A0, A1, A2, a_step, scaling0, scaling1, scaling2, scale_step, slots, weights, partial,
    count, k, size, d_in,
    RANK: tl.constexpr, SCALES: tl.constexpr, HAS_ROWS: tl.constexpr, SLICES: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
    FACTOR: tl.constexpr,
):  # fmt: skip
    """Grid (row tiles * rank-row tiles, SPLIT, SLICES); partial (SLICES, SPLIT, count, k * RANK) float32."""
    tiles = tl.cdiv(count, BLOCK_T)
    t = (tl.program_id(0) % tiles) * BLOCK_T
    m = (tl.program_id(0) // tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    part, number = tl.program_id(1), tl.program_id(2)
    A = _one_of(number, A0, A1, A2, SLICES)
    scaling = _one_of(number, scaling0, scaling1, scaling2, SLICES)
    partial += (number * SPLIT + part).to(tl.int64) * count * (k * RANK)
    span = tl.cdiv(tl.cdiv(d_in, BLOCK_K), SPLIT) * BLOCK_K
    begin = part * span
    end = tl.minimum(begin + span, d_in)
    if BLOCK_T == 1:
        _shrink_row(
            x, rows, x_step, A, a_step, scaling, scale_step, slots, weights, partial, t, m, begin, end, k, size, d_in,
            RANK, SCALES, HAS_ROWS, BLOCK_M, BLOCK_K,
        )  # fmt: skip
    elif _same_slots(slots, t, count, k, BLOCK_T, BLOCK_J):
        tile = t + tl.arange(0, BLOCK_T)
        there = tile < count
        j = m // RANK
        slot = tl.load(slots + t * k + j, mask=j < k, other=-1).to(tl.int64)
        filled = (slot >= 0) & (slot < size)
        i = m % RANK
        place = tile.to(tl.int64)
        if HAS_ROWS:
            place = tl.load(rows + tile, mask=there, other=0)
        x_at = x + (place * x_step)[:, None]
        a_at = A + (slot * a_step + i * d_in)[None, :]
        sums = tl.zeros((BLOCK_T, BLOCK_M), tl.float32)
        for start in range(begin, end, BLOCK_K):
            d = start + tl.arange(0, BLOCK_K)
            inside = d < end
            v = tl.load(x_at + d[None, :], mask=there[:, None] & inside[None, :], other=0.0)
            a = tl.load(a_at + d[:, None], mask=filled[None, :] & inside[:, None], other=0.0)
            sums = tl.dot(v.to(FACTOR), a.to(FACTOR), sums, input_precision="tf32x3")
        scale = tl.load(scaling + slot * scale_step + i % SCALES, mask=filled, other=0.0)
        mask = there[:, None] & (j < k)[None, :]
        weight = tl.load(weights + tile[:, None] * k + j[None, :], mask=mask, other=0.0)
        hidden = tl.where(weight != 0, weight * scale[None, :] * sums, 0.0)
        tl.store(partial + tile[:, None] * (k * RANK) + m[None, :], hidden, mask=mask)
    else:
        for row in range(t, tl.minimum(t + BLOCK_T, count)):
            _shrink_row(
                x, rows, x_step, A, a_step, scaling, scale_step, slots, weights, partial, row, m, begin, end, k, size,
                d_in, RANK, SCALES, HAS_ROWS, BLOCK_M, BLOCK_K,
            )  # fmt: skip


@triton.jit
def _change(
    Bt, bt_step, slots, weights, partial, t, line, n, d_out, count, k, size,
    RANK: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Row t's sum over rank rows at the columns n, and whether it has any; its partial sums stand in row `line`."""
    change = tl.zeros((BLOCK_N,), tl.float32)
    active = tl.zeros((1,), tl.int32)
    inside = n < d_out
    for first in range(0, k * RANK, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        slot, i, _weight, filled = _mounted(slots, weights, t, m, k, size, RANK)
        active = tl.maximum(active, tl.max(filled.to(tl.int32), axis=0))
        hidden = tl.zeros((BLOCK_M,), tl.float32)
        for part in tl.static_range(SPLIT):
            at = partial + (part * count + line).to(tl.int64) * (k * RANK) + m
            hidden += tl.load(at, mask=m < k * RANK, other=0.0)
        at = Bt + (slot * bt_step + i * d_out)[:, None] + n[None, :]
        b = tl.load(at, mask=filled[:, None] & inside[None, :], other=0.0).to(tl.float32)
        change += tl.sum(hidden[:, None] * b, axis=0)
    return change, active


@triton.jit
def _expand_row(
    y, rows, y_step, Bt, bt_step, slots, weights, partial, t, n, d_out, count, k, size,
    RANK: tl.constexpr, HAS_ROWS: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    change, active = _change(
        Bt, bt_step, slots, weights, partial, t, t, n, d_out, count, k, size, RANK, SPLIT, BLOCK_M, BLOCK_N
    )
    y += _place(rows, t, HAS_ROWS) * y_step
    mask = (n < d_out) & (active > 0)
    before = tl.load(y + n, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + n, (before + change).to(y.dtype.element_ty), mask=mask)


@triton.jit
def expand(
    y0, y1, y2, rows, y_step0, y_step1, y_step2, Bt0, Bt1, Bt2, bt_step0, bt_step1, bt_step2, slots, weights,
    partial, count, k, size, d_out0, d_out1, d_out2,
    RANK: tl.constexpr, HAS_ROWS: tl.constexpr, SLICES: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (row tiles, column tiles of the widest slice, SLICES)."""
    t = tl.program_id(0) * BLOCK_T
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    number = tl.program_id(2)
    y = _one_of(number, y0, y1, y2, SLICES)
    y_step = _one_of(number, y_step0, y_step1, y_step2, SLICES)
    Bt = _one_of(number, Bt0, Bt1, Bt2, SLICES)
    bt_step = _one_of(number, bt_step0, bt_step1, bt_step2, SLICES)
    d_out = _one_of(number, d_out0, d_out1, d_out2, SLICES)
    partial += (number * SPLIT).to(tl.int64) * count * (k * RANK)
    if BLOCK_T == 1:
        _expand_row(
            y, rows, y_step, Bt, bt_step, slots, weights, partial, t, n, d_out, count, k, size,
            RANK, HAS_ROWS, SPLIT, BLOCK_M, BLOCK_N,
        )  # fmt: skip
    elif _same_slots(slots, t, count, k, BLOCK_T, BLOCK_J):
        tile = t + tl.arange(0, BLOCK_T)
        there = tile < count
        change = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        active = tl.zeros((BLOCK_T,), tl.int32)
        for first in range(0, k * RANK, BLOCK_M):
            m = first + tl.arange(0, BLOCK_M)
            j = m // RANK
            mask = there[:, None] & (j < k)[None, :]
            slot = tl.load(slots + t * k + j, mask=j < k, other=-1).to(tl.int64)
            filled = (slot >= 0) & (slot < size)
            weight = tl.load(weights + tile[:, None] * k + j[None, :], mask=mask, other=0.0)
            active = tl.maximum(active, tl.max(((weight != 0) & filled[None, :]).to(tl.int32), axis=1))
            hidden = tl.zeros((BLOCK_T, BLOCK_M), tl.float32)
            for part in tl.static_range(SPLIT):
                at = partial + (part * count + tile).to(tl.int64)[:, None] * (k * RANK) + m[None, :]
                hidden += tl.load(at, mask=mask, other=0.0)
            at = Bt + (slot * bt_step + (m % RANK) * d_out)[:, None] + n[None, :]
            b = tl.load(at, mask=filled[:, None] & (n < d_out)[None, :], other=0.0).to(tl.float32)
            change = tl.dot(hidden, b, change, input_precision="tf32x3")
        place = tile.to(tl.int64)
        if HAS_ROWS:
            place = tl.load(rows + tile, mask=there, other=0)
        at = y + (place * y_step)[:, None] + n[None, :]
        mask = (there & (active > 0))[:, None] & (n < d_out)[None, :]
        before = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        tl.store(at, (before + change).to(y.dtype.element_ty), mask=mask)
    else:
        for row in range(t, tl.minimum(t + BLOCK_T, count)):
            _expand_row(
                y, rows, y_step, Bt, bt_step, slots, weights, partial, row, n, d_out, count, k, size,
                RANK, HAS_ROWS, SPLIT, BLOCK_M, BLOCK_N,
            )  # fmt: skip


@triton.jit
def expand_gated(
    gate, up, gate_step, up_step, Bt0, Bt1, bt_step0, bt_step1, slots, weights, partial, count, k, size, d_out,
    RANK: tl.constexpr, SPLIT: tl.constexpr, GELU: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (rows, column tiles). Rows go one by one: it is for decoding, where they seldom have the same slots."""
    t = tl.program_id(0)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < d_out
    gate += t.to(tl.int64) * gate_step
    up += t.to(tl.int64) * up_step
    # One after the other: side by side their tiles would not fit into registers.
    of_gate, _active = _change(
        Bt0, bt_step0, slots, weights, partial, t, t, n, d_out, count, k, size, RANK, SPLIT, BLOCK_M, BLOCK_N
    )
    of_gate += tl.load(gate + n, mask=inside, other=0.0).to(tl.float32)
    of_up, _active = _change(
        Bt1, bt_step1, slots, weights, partial, t, SPLIT * count + t, n, d_out, count, k, size,
        RANK, SPLIT, BLOCK_M, BLOCK_N,
    )  # fmt: skip
    of_up += tl.load(up + n, mask=inside, other=0.0).to(tl.float32)
    turn = of_gate
    if GELU:  # tanh(u) is 2 * sigmoid(2 u) - 1
        turn = 1.5957691216057308 * (of_gate + 0.044715 * of_gate * of_gate * of_gate)
    tl.store(gate + n, (of_gate * tl.sigmoid(turn) * of_up).to(gate.dtype.element_ty), mask=inside)
