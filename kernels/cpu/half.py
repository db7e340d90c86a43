"""The 16-bit formats on the CPU: from their words to float32 and back, of one number or of a vector of them.

What the processor has no instruction for is done in integers, in a few operations that the vectoriser sees through.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .processor import converts_float16

_WORD = ir.IntType(16)
_BITS = ir.IntType(32)
_HALF = ir.HalfType()
_FLOAT = ir.FloatType()

# Of float32, whose numbers have 8 bits of exponent, 127 too large, and 23 of fraction. Those of float16 have 5, 15 too large, and 10.
_SIGN = 0x80000000
_INFINITY = 0x7F800000
_QUIET = 0x00400000
_EXPONENT = 23
_DROPPED = 23 - 10
_REBIASED = (127 - 15) << _EXPONENT
_LEAST_NORMAL = (127 - 14) << _EXPONENT
"""2⁻¹⁴, below which float16's numbers are subnormal."""
_BEYOND = (127 + 16) << _EXPONENT
"""2¹⁶, from which on none is finite."""
_ALIGNED = (127 - 1) << _EXPONENT
"""0.5, whose last bit is worth 2⁻²⁴, as the last bit of float16's subnormals is."""


def widen_float16_in(context: Any, builder: Any, words: Any) -> Any:
    """Emit: the float32 of float16's words, exactly; a NaN keeps its payload and is made quiet, as processors do it."""
    if converts_float16(context.codegen()):
        return builder.fpext(builder.bitcast(words, _shaped(words, _HALF)), _shaped(words, _FLOAT))
    constant = functools.partial(_constant, words)
    bits = builder.zext(words, _shaped(words, _BITS))
    magnitude = builder.shl(builder.and_(bits, constant(0x7FFF)), constant(_DROPPED))
    infinity = constant(31 << _EXPONENT)
    special = builder.add(magnitude, constant((255 - 31) << _EXPONENT))
    nan = builder.or_(special, constant(_QUIET))
    special = builder.select(builder.icmp_signed(">", magnitude, infinity), nan, special)
    # A subnormal's fraction is put below the bit that stands for 2⁻¹⁴, and that bit taken away: a difference that is exact.
    above = builder.bitcast(builder.add(magnitude, constant(_LEAST_NORMAL)), _shaped(words, _FLOAT))
    least = builder.bitcast(constant(_LEAST_NORMAL), _shaped(words, _FLOAT))
    subnormal = builder.bitcast(builder.fsub(above, least), bits.type)
    found = builder.add(magnitude, constant(_REBIASED))
    found = builder.select(builder.icmp_signed(">=", magnitude, infinity), special, found)
    found = builder.select(builder.icmp_signed("<", magnitude, constant(1 << _EXPONENT)), subnormal, found)
    sign = builder.shl(builder.and_(bits, constant(0x8000)), constant(16))
    return builder.bitcast(builder.or_(found, sign), _shaped(words, _FLOAT))


def round_float16_in(context: Any, builder: Any, values: Any) -> Any:
    """Emit: the words of the float16 nearest to a float32, ties to even; of a NaN the payload's upper bits, made quiet."""
    if converts_float16(context.codegen()):
        return builder.bitcast(builder.fptrunc(values, _shaped(values, _HALF)), _shaped(values, _WORD))
    constant = functools.partial(_constant, values)
    bits = builder.bitcast(values, _shaped(values, _BITS))
    magnitude = builder.and_(bits, constant(_SIGN - 1))
    cut = builder.lshr(magnitude, constant(_DROPPED))
    # As in `round_bfloat16_in`: half of the kept bits' last place less one, and one more where that place is odd.
    odd = builder.and_(cut, constant(1))
    biased = builder.add(magnitude, constant((1 << (_DROPPED - 1)) - 1 - _REBIASED & 0xFFFFFFFF))
    normal = builder.lshr(builder.add(biased, odd), constant(_DROPPED))
    # A sum with 0.5 is rounded where a subnormal ends; its fraction is then the subnormal's.
    half = builder.bitcast(constant(_ALIGNED), values.type)
    aligned = builder.bitcast(builder.fadd(builder.bitcast(magnitude, values.type), half), bits.type)
    subnormal = builder.sub(aligned, constant(_ALIGNED))
    nan = builder.or_(builder.and_(cut, constant(0x03FF)), constant(0x7E00))
    special = builder.select(builder.icmp_signed(">", magnitude, constant(_INFINITY)), nan, constant(0x7C00))
    found = builder.select(builder.icmp_signed("<", magnitude, constant(_LEAST_NORMAL)), subnormal, normal)
    found = builder.select(builder.icmp_signed(">=", magnitude, constant(_BEYOND)), special, found)
    sign = builder.and_(builder.lshr(bits, constant(16)), constant(0x8000))
    return builder.trunc(builder.or_(found, sign), _shaped(values, _WORD))


def widen_bfloat16_in(context: Any, builder: Any, words: Any) -> Any:
    """Emit: the float32 of bfloat16's words, exactly: they are its upper half."""
    bits = builder.zext(words, _shaped(words, _BITS))
    return builder.bitcast(builder.shl(bits, _constant(words, 16)), _shaped(words, _FLOAT))


def round_bfloat16_in(context: Any, builder: Any, values: Any) -> Any:
    """Emit: the words of the bfloat16 nearest to a float32, ties to even; a NaN stays one.

    Adding 0x7fff, and 1 more where the kept half is odd, carries into the kept half exactly when rounding up is due, and past the
    largest number into infinity. A NaN could be carried into infinity or zero, so it is cut and made quiet instead.
    """
    constant = functools.partial(_constant, values)
    bits = builder.bitcast(values, _shaped(values, _BITS))
    odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, constant(0x7FFF))), constant(16))
    quiet = builder.or_(builder.lshr(bits, constant(16)), constant(0x40))
    is_nan = builder.fcmp_unordered("uno", values, values)
    return builder.trunc(builder.select(is_nan, quiet, rounded), _shaped(values, _WORD))


def _shaped(values: Any, element: Any) -> Any:
    """An element's type, or of a vector as long as another that of one of them."""
    return ir.VectorType(element, values.type.count) if isinstance(values.type, ir.VectorType) else element


def _constant(values: Any, bits: int) -> Any:
    """A word of 32 bits, in every place of a vector where the values are one."""
    kind = _shaped(values, _BITS)
    return ir.Constant(kind, [bits] * kind.count if isinstance(kind, ir.VectorType) else bits)


@intrinsic
def widen_float16(typingctx, word):
    """The float32 of a float16's 16 bits, exactly."""

    def codegen(context, builder, signature, args):
        return widen_float16_in(context, builder, *args)

    return types.float32(types.uint16), codegen


@intrinsic
def round_float16(typingctx, value):
    """The 16 bits of the float16 nearest to a float32, ties to even."""

    def codegen(context, builder, signature, args):
        return round_float16_in(context, builder, *args)

    return types.uint16(types.float32), codegen


@intrinsic
def widen_bfloat16(typingctx, word):
    """The float32 of a bfloat16's 16 bits, exactly."""

    def codegen(context, builder, signature, args):
        return widen_bfloat16_in(context, builder, *args)

    return types.float32(types.uint16), codegen


@intrinsic
def round_bfloat16(typingctx, value):
    """The 16 bits of the bfloat16 nearest to a float32, ties to even; a NaN stays one."""

    def codegen(context, builder, signature, args):
        return round_bfloat16_in(context, builder, *args)

    return types.uint16(types.float32), codegen
