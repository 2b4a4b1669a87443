# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,attr-defined,import-untyped,call-arg"
"""The compiled loops of `sum_delta_gated` on CPU: both targets of a row and its activation in one call.

A row's outputs of gate and up stay in the nearest cache from the first rank row to the activation. What the loops over
rank rows do and why is said in `numba_loops`.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import njit

from atomlora.kernels.numba_loops import FAST, arrays, entry, expand, fault, list_rank_rows, project
from atomlora.kernels.numba_vectors import pointer

_LOG2_E, _LN_2 = np.float32(1.4426950408889634), np.float32(0.6931471805599453)
_LEAST, _MOST = np.float32(-87.0), np.float32(89.0)  # e ** -87 is normal still, and from 88.4 on it is infinity
# exp(r) for |r| <= ln 2 / 2: the Taylor series is within 1.3e-7 there.
_C2, _C3, _C4, _C5, _C6 = (np.float32(1 / n) for n in (2, 6, 24, 120, 720))
_HALF_UP, _BIAS, _ONE = np.float32(127.5), np.float32(127.0), np.float32(1.0)
_GELU, _CUBIC = np.float32(1.5957691216057308), np.float32(0.044715)  # 2 * sqrt(2 / pi)


@njit(fastmath=FAST, nogil=True)
def _exp(v):
    """exp in float32 without a branch or a call, so that LLVM makes vectors of it; NaN counts as the least."""
    v = v if v > _LEAST else _LEAST
    v = v if v < _MOST else _MOST
    exponent = np.int32(v * _LOG2_E + _HALF_UP)  # biased, and rounded to the nearest
    r = v - (np.float32(exponent) - _BIAS) * _LN_2
    series = _ONE + r * (_ONE + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6)))))
    return series * np.uint32(np.uint32(exponent) << np.uint32(23)).view(np.float32)


# Without error_model "numpy" each division is checked for zero, one number at a time.
@njit(fastmath=FAST, nogil=True, error_model="numpy")
def _activate(gate, up, gelu):
    """gate[d] = act(gate[d]) * up[d]; both activations are the number times a sigmoid."""
    if gelu:
        for d in range(gate.shape[0]):
            v = gate[d]
            gate[d] = v / (_ONE + _exp(-_GELU * (v + _CUBIC * v * v * v))) * up[d]
    else:
        for d in range(gate.shape[0]):
            v = gate[d]
            gate[d] = v / (_ONE + _exp(-v)) * up[d]


@njit(nogil=True)
def _row(address, step, t, width):
    return numba.carray(pointer(address + 4 * step * t, np.float32(0)), width)


@entry
def serial(kind, where, of_gate, of_up, size, rank, slots, weights, count, k, gelu):
    """`sum_delta_gated` in the calling thread; -1, or which slot lies outside the pools.

    `where` is (x address, x row step, the same of gate and of up); `of_gate` and `of_up` are (addresses of A, Bt and
    scaling, then the sizes as in `numba_loops`); gelu 1 is gelu_tanh, 0 silu."""
    A0, Bt0, scales0, mounted, gates = arrays(
        kind, of_gate[0], of_gate[1], of_gate[2], of_gate[3:], size, rank, slots, weights, count, k
    )
    A1, Bt1, scales1, _, _ = arrays(kind, of_up[0], of_up[1], of_up[2], of_up[3:], size, rank, slots, weights, count, k)
    bad = fault(mounted, size, count, (0, 0, 0, 0, 0))
    if bad != -1:
        return bad
    d_in, d_out = of_gate[5], of_gate[6]
    most = (k * rank + 3) // 4 * 4
    # By turns of rows and by target: where rank rows begin in A and in Bt, and their gains.
    index = np.empty((2, 2, 2, most), np.int64)
    gain = np.empty((2, 2, most), np.float32)
    hidden = np.empty(most, np.float32)
    side = 0
    filled = list_rank_rows(mounted[0], gates[0], rank, of_gate[3:], scales0, index[0, 0], gain[0, 0])
    list_rank_rows(mounted[0], gates[0], rank, of_up[3:], scales1, index[0, 1], gain[0, 1])
    for t in range(count):
        other, waiting = 1 - side, 0
        if t + 1 < count:
            now = t + 1
            waiting = list_rank_rows(
                mounted[now], gates[now], rank, of_gate[3:], scales0, index[other, 0], gain[other, 0]
            )
            list_rank_rows(mounted[now], gates[now], rank, of_up[3:], scales1, index[other, 1], gain[other, 1])
        gate, up = _row(where[2], where[3], t, d_out), _row(where[4], where[5], t, d_out)
        if filled:
            x, here = _row(where[0], where[1], t, d_in), index[side]
            project(x, A0, here[0, 0], gain[side, 0], hidden, 0, filled, Bt0, here[0, 1], filled, d_out)
            expand(hidden, Bt0, here[0, 1], filled, gate, 0, d_out, A1, here[1, 0], filled, d_in)
            project(x, A1, here[1, 0], gain[side, 1], hidden, 0, filled, Bt1, here[1, 1], filled, d_out)
            expand(hidden, Bt1, here[1, 1], filled, up, 0, d_out, A0, index[other, 0, 0], waiting, d_in)
        _activate(gate, up, gelu)
        side, filled = other, waiting
    return -1


@entry
def activate(where, count, width, gelu):
    """The activation alone, over `count` rows; `where` as above."""
    for t in range(count):
        _activate(_row(where[2], where[3], t, width), _row(where[4], where[5], t, width), gelu)
