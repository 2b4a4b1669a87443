# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,attr-defined,import-untyped,call-arg"
"""The innermost loops of the Numba kernels, as LLVM vectors: dot products with four rank rows, and adding four of them.

Both go line by line of 64 bytes, that is by 16 numbers of float32, 32 of bfloat16 or 64 of int8, and ask for the same
line of the four rank rows that come next. A line of bfloat16 is read as 16 numbers of 32 bits: the upper halves are
one vector of float32 as they stand (masked), the lower ones another (shifted), where converting number by number takes
an instruction more for half as many; x and out are taken apart into even and odd elements to match. int8 is converted.
LLVM splits vectors of 16 to what the processor has.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

ir = cgutils.ir  # llvmlite's, which Numba brings along
LINE_BYTES = 64
_LANES = 16
_FLOATS = ir.VectorType(ir.FloatType(), _LANES)
_FOUR = types.UniTuple(types.intp, 4)


@intrinsic
def pointer(typingctx, address, kind):
    """An integer address as a pointer to numbers of the type of `kind`, as `numba.carray` takes it."""
    target = types.CPointer(kind)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(target))

    return target(types.intp, kind), codegen


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at an address."""

    def codegen(context, builder, signature, args):
        _prefetch(builder, builder.inttoptr(args[0], cgutils.voidptr_t))
        return context.get_dummy_value()

    return types.void(types.intp), codegen


def widen(value):
    """float32 of a stored element: itself, an int8 converted, or the bfloat16 whose bits a uint16 holds."""
    return (np.uint32(value) << 16).view(np.float32) if value.dtype == np.uint16 else np.float32(value)


@overload(widen, inline="always")
def _widen_compiled(value):
    if isinstance(value, types.Float):
        return lambda value: value
    if value == types.int8:
        return lambda value: np.float32(value)
    return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)


@intrinsic
def dot_lines(typingctx, kind, x, rows, ahead, lines):
    """The products of x with four rank rows over their first `lines` lines, summed: four float32.

    `kind` is a number of the stored type; x, rows (4) and ahead (4: what to fetch meanwhile) are addresses."""

    def codegen(context, builder, signature, args):
        kind = signature.args[0]
        x, rows, ahead, lines = _addresses(builder, args[1:])
        zeros = ir.Constant(_FLOATS, [0.0] * _LANES)
        totals = [cgutils.alloca_once_value(builder, zeros) for _ in range(4)]
        for total in totals:  # what an alloca begins with is set once a function, and this may stand in a loop
            builder.store(zeros, total)
        with cgutils.for_range(builder, lines) as loop:
            at = builder.mul(loop.index, loop.index.type(LINE_BYTES))
            values = _load_floats(builder, x, loop.index, kind)
            for row, soon, total in zip(rows, ahead, totals, strict=True):
                _prefetch(builder, builder.gep(soon, [at]))
                so_far = builder.load(total)
                for value, factor in zip(values, _load_line(builder, row, at, kind), strict=True):
                    so_far = _add(builder, so_far, builder.fmul(value, factor, flags=("contract",)))
                builder.store(so_far, total)
        sums = [_across(builder, builder.load(total)) for total in totals]
        return context.make_tuple(builder, signature.return_type, sums)

    return types.UniTuple(types.float32, 4)(kind, types.intp, _FOUR, _FOUR, types.intp), codegen


@intrinsic
def add_lines(typingctx, kind, out, hidden, rows, ahead, lines):
    """out[d] += sum of hidden[i] * rows[i][d] over the first `lines` lines of four rank rows; else as `dot_lines`."""

    def codegen(context, builder, signature, args):
        kind = signature.args[0]
        out, rows, ahead, lines = _addresses(builder, (args[1], *args[3:]))
        gains = [_everywhere(builder, gain) for gain in cgutils.unpack_tuple(builder, args[2], 4)]
        with cgutils.for_range(builder, lines) as loop:
            at = builder.mul(loop.index, loop.index.type(LINE_BYTES))
            values = _load_floats(builder, out, loop.index, kind)
            for row, soon, gain in zip(rows, ahead, gains, strict=True):
                _prefetch(builder, builder.gep(soon, [at]))
                line = _load_line(builder, row, at, kind)
                values = [
                    _add(builder, value, builder.fmul(gain, factor, flags=("contract",)))
                    for value, factor in zip(values, line, strict=True)
                ]
            _store_floats(builder, out, loop.index, kind, values)
        return context.get_dummy_value()

    return types.void(kind, types.intp, types.UniTuple(types.float32, 4), _FOUR, _FOUR, types.intp), codegen


def _load_line(builder, row, at, kind):
    """A line of stored numbers as vectors of float32; of bfloat16 the even elements and the odd ones."""
    if kind == types.float32:
        return [builder.load(_typed(builder, row, at, _FLOATS), align=4)]
    if kind == types.uint16:
        whole = ir.VectorType(ir.IntType(32), _LANES)
        pairs = builder.load(_typed(builder, row, at, whole), align=2)
        low = builder.shl(pairs, ir.Constant(whole, [16] * _LANES))
        high = builder.and_(pairs, ir.Constant(whole, [0xFFFF0000] * _LANES))
        return [builder.bitcast(low, _FLOATS), builder.bitcast(high, _FLOATS)]
    whole = ir.VectorType(ir.IntType(8), _LANES)
    places = [builder.add(at, at.type(offset)) for offset in range(0, LINE_BYTES, _LANES)]
    return [builder.sitofp(builder.load(_typed(builder, row, place, whole), align=1), _FLOATS) for place in places]


def _load_floats(builder, base, line, kind):
    """The elements of x or out that belong to a line, in the order of `_load_line`."""
    vectors = [builder.load(place, align=4) for place in _places(builder, base, line, kind)]
    if kind == types.uint16:
        return [_shuffle(builder, *vectors, range(first, 2 * _LANES, 2)) for first in (0, 1)]
    return vectors


def _store_floats(builder, base, line, kind, vectors):
    if kind == types.uint16:
        in_turn = [place for pair in zip(range(_LANES), range(_LANES, 2 * _LANES), strict=True) for place in pair]
        vectors = [_shuffle(builder, *vectors, in_turn[first : first + _LANES]) for first in (0, _LANES)]
    for vector, place in zip(vectors, _places(builder, base, line, kind), strict=True):
        builder.store(vector, place, align=4)


def _places(builder, base, line, kind):
    count = LINE_BYTES // _LANES // (kind.bitwidth // 8)
    at = builder.mul(line, line.type(4 * _LANES * count))
    return [_typed(builder, base, builder.add(at, at.type(4 * _LANES * number)), _FLOATS) for number in range(count)]


def _addresses(builder, args):
    """(x or out, rows, ahead, lines), with addresses as pointers to bytes."""
    end, rows, ahead, lines = args
    end = builder.inttoptr(end, cgutils.voidptr_t)
    fours = [cgutils.unpack_tuple(builder, four, 4) for four in (rows, ahead)]
    rows, ahead = ([builder.inttoptr(address, cgutils.voidptr_t) for address in four] for four in fours)
    return end, rows, ahead, lines


def _typed(builder, base, offset, kind):
    return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())


def _shuffle(builder, one, other, order):
    order = list(order)
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


def _everywhere(builder, value):
    single = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, cgutils.int32_t(0))
    return _shuffle(builder, single, single, [0] * _LANES)


def _add(builder, one, other):
    return builder.fadd(one, other, flags=("contract",))


def _across(builder, vector):
    """The sum of a vector's elements."""
    half = _LANES // 2
    while half:
        halves = (_shuffle(builder, vector, vector, range(first, first + half)) for first in (0, half))
        vector = builder.fadd(*halves)
        half //= 2
    return builder.extract_element(vector, cgutils.int32_t(0))


def _prefetch(builder, address):
    """For reading, into the cache next to the processor (locality 3 of 0 to 3)."""
    number = cgutils.int32_t
    kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [address, number(0), number(3), number(1)])
