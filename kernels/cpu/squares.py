"""The sum of squares of one leaf on the CPU, in vectors written by hand.

The order of the sums is part of the result (`gpu_adam.kernels.prologue` states it), so the vectoriser may not change it, and would leave
the accumulators in memory. Here all of them are one LLVM vector, which the compiler cuts into the processor's registers. With AVX2 half
of it spills; two passes over half of the accumulators each were faster on a leaf in the cache and slower from memory, which is then not
read in one stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..abi import LEAF_LANES
from .half import widen_bfloat16_in, widen_float16_in
from .intrinsics import LINE, ask_for_line
from .processor import fuses

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format

_WORD = ir.IntType(16)
_BITS = ir.IntType(32)
_ADDRESS = ir.IntType(64)
_AHEAD = 8192
"""How many bytes ahead memory is asked for. The sum of a leaf's accumulators is a long chain, over which the processor would not look
ahead to the next leaf, and a leaf of float32 is a page, at whose end its own prefetching stops: together, half the speed of memory."""
_FLOAT = ir.FloatType()
_DOUBLE = ir.DoubleType()


def _vector(element: Any, count: int = LEAF_LANES) -> Any:
    return ir.VectorType(element, count)


def _splat(element: Any, value: float) -> Any:
    return ir.Constant(_vector(element), [value] * LEAF_LANES)


_WIDEN: dict[str, tuple[Any, Callable[..., Any]]] = {
    "float64": (_DOUBLE, lambda context, builder, values: values),
    "float32": (_FLOAT, lambda context, builder, values: values),
    "float16": (_WORD, widen_float16_in),
    "bfloat16": (_WORD, widen_bfloat16_in),
}
"""For each format what a vector of it is loaded as, and how that becomes float32 or is float64, exactly."""


def sum_of_squares(format: Format) -> Any:
    """``(address, rows, last)``: the sum of squares of ``rows`` rows of ``LEAF_LANES`` elements of a format, as a Numba intrinsic.

    The rows lie one after the other at ``address``, all but the last one, which lies at ``last``: an incomplete one is read from a copy
    that zeros fill up.
    """
    element, widen = _WIDEN[format.name]
    row_bytes = LEAF_LANES * format.itemsize

    @intrinsic
    def squares(typingctx, address, rows, last):
        def codegen(context, builder, signature, args):
            first, count, last = args
            room = cgutils.alloca_once_value(builder, _splat(_DOUBLE, 0.0))
            final = builder.sub(count, _ADDRESS(1))
            with cgutils.for_range(builder, count) as loop:
                inside = builder.add(first, builder.mul(loop.index, _ADDRESS(row_bytes)))
                at = builder.select(builder.icmp_signed("==", loop.index, final), last, inside)
                pointer = builder.inttoptr(at, _vector(element).as_pointer())
                for line in range(0, row_bytes, LINE):
                    ask_for_line(builder, builder.add(inside, _ADDRESS(_AHEAD + line)))
                values = widen(context, builder, builder.load(pointer, align=format.itemsize))
                if values.type.element is _FLOAT:
                    values = builder.fpext(values, _vector(_DOUBLE))
                total = builder.load(room)
                if format.itemsize < 8 and not fuses(context.codegen()):
                    # Of all formats but float64 the square is exact, so that this rounds once too.
                    total = builder.fadd(builder.fmul(values, values), total)
                else:
                    total = _fma(builder, values, values, total)
                builder.store(total, room)
            return _add_neighbours(builder, builder.load(room))

        return types.float64(types.int64, types.int64, types.int64), codegen

    return squares


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    signature = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(
        cgutils.get_or_insert_function(builder.module, signature, f"llvm.fma.v{LEAF_LANES}f64"), [a, b, c]
    )


def _add_neighbours(builder: Any, sums: Any) -> Any:
    while sums.type.count > 1:
        half = range(sums.type.count // 2)
        even, odd = (
            builder.shuffle_vector(sums, sums, ir.Constant(_vector(_BITS, len(half)), [2 * k + side for k in half]))
            for side in (0, 1)
        )
        sums = builder.fadd(even, odd)
    return builder.extract_element(sums, _BITS(0))
