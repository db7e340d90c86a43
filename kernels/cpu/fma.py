"""The fused multiply-add on the CPU, and what takes its place where the processor has none."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .processor import fuses

_BITS = ir.IntType(64)
_DOUBLE = ir.DoubleType()


@intrinsic
def fma(typingctx, a, b, c):
    """``a*b + c``, rounded once."""

    def codegen(context, builder, signature, args):
        if a == types.float32 and not fuses(context.codegen()):
            return _fma_in_float64(builder, *args)
        return builder.fma(*args)

    # Mixed formats are refused rather than promoted: a float64 that slips in would change the bits.
    return (a(a, a, a), codegen) if a == b == c else None


def _fma_in_float64(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Emit: ``a*b + c`` of float32, rounded once, without a call of the C library's, which is hundreds of times slower.

    The product is exact in float64. The sum need not be: rounded to nearest, it may come to lie half way between two numbers of float32
    where the exact one does not. So it is rounded to odd: of the two numbers of float64 beside the exact sum that one is taken whose last
    bit is 1 (Boldo and Melquiond, 2008). The sum is one of the two, and its error tells on which side of it the other is.
    """
    wide_a, wide_b, wide_c = (builder.fpext(number, _DOUBLE) for number in (a, b, c))
    product = builder.fmul(wide_a, wide_b)
    total = builder.fadd(product, wide_c)
    # Knuth's error of a sum, which is exact; of infinities NaN, which compares as no error.
    back = builder.fsub(total, product)
    error = builder.fadd(builder.fsub(product, builder.fsub(total, back)), builder.fsub(wide_c, back))
    inexact = builder.fcmp_ordered("!=", error, _DOUBLE(0.0))
    bits, error_bits = builder.bitcast(total, _BITS), builder.bitcast(error, _BITS)
    # Of the two the one nearer to zero: the sum, or where the error has the other sign the one before it.
    below = builder.sub(bits, builder.lshr(builder.xor(bits, error_bits), _BITS(63)))
    odd = builder.select(inexact, builder.or_(below, _BITS(1)), bits)
    return builder.fptrunc(builder.bitcast(odd, _DOUBLE), a.type)
