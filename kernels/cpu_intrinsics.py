"""What Numba's CPU target lacks: a fused multiply-add, arrays over addresses, and the 16-bit formats.

Each is a few LLVM instructions, which the vectoriser sees through, unlike a call.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

_WORD = ir.IntType(16)
_BITS = ir.IntType(32)
_FLOAT = ir.FloatType()
_DOUBLE = ir.DoubleType()
_ADDRESS = ir.IntType(64)


class NoAliasCompiler(CompilerBase):
    """Numba's pipeline with array arguments declared not to overlap.

    The optimizer refuses arrays that do, but for a gradient that is the parameter itself: there each element is still read before
    it is written, which a test pins. Without the declaration the vectoriser compares every pair of streams at run time, and gives
    up at five.
    """

    def define_pipelines(self) -> list[Any]:
        """The ordinary pipeline, the flag set."""
        self.state.flags.noalias = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


@intrinsic
def fma(typingctx, a, b, c):
    """``a*b + c``, rounded once."""

    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    # Mixed formats are refused rather than promoted: a float64 that slips in would change the bits.
    return (a(a, a, a), codegen) if a == b == c else None


@intrinsic
def float_mode(typingctx, mode):
    """Set the processor's floating-point mode for this thread, and return the one before; on x86-64 the register MXCSR.

    Libraries set a thread to flush subnormals to zero (``torch.set_flush_denormal``), which would change the bits. Elsewhere than on
    x86-64 nothing is done and 0 returned.
    """

    def codegen(context, builder, signature, args):
        if platform.machine().lower() not in ("x86_64", "amd64"):
            return _BITS(0)
        access = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t])
        place = cgutils.alloca_once(builder, _BITS)
        pointer = builder.bitcast(place, cgutils.voidptr_t)
        builder.call(cgutils.get_or_insert_function(builder.module, access, "llvm.x86.sse.stmxcsr"), [pointer])
        before = builder.load(place)
        builder.store(args[0], place)
        builder.call(cgutils.get_or_insert_function(builder.module, access, "llvm.x86.sse.ldmxcsr"), [pointer])
        return before

    return types.uint32(types.uint32), codegen


LINE = 64
"""Bytes of a cache line."""


def ask_for_line(builder: Any, address: Any) -> None:
    """Emit a prefetch of the cache line at an address, which does nothing where there is no memory."""
    pointer = builder.inttoptr(address, cgutils.int8_t.as_pointer())
    signature = ir.FunctionType(ir.VoidType(), [pointer.type, _BITS, _BITS, _BITS])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0i8")
    builder.call(function, [pointer, _BITS(0), _BITS(0), _BITS(1)])


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at an address."""

    def codegen(context, builder, signature, args):
        ask_for_line(builder, args[0])
        return context.get_dummy_value()

    return types.none(types.int64), codegen


@intrinsic
def array_at(typingctx, address, size, dtype):
    """A one-dimensional array of ``size`` elements of ``dtype`` at an address."""
    array_type = types.Array(dtype.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        element = context.get_data_type(array_type.dtype)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(element))
        array = make_array(array_type)(context, builder)
        populate_array(
            array,
            data=builder.inttoptr(args[0], element.as_pointer()),
            shape=[args[1]],
            strides=[itemsize],
            itemsize=itemsize,
            meminfo=None,
        )
        return array._getvalue()

    return array_type(address, types.intp, dtype), codegen


@intrinsic
def load_at(typingctx, address, dtype):
    """The number of type ``dtype`` at an address."""
    number = dtype.dtype

    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], context.get_data_type(number).as_pointer()))

    return number(types.int64, dtype), codegen


@intrinsic
def store_at(typingctx, address, value):
    """Write a number to an address."""

    def codegen(context, builder, signature, args):
        builder.store(args[1], builder.inttoptr(args[0], args[1].type.as_pointer()))
        return context.get_dummy_value()

    return types.none(types.int64, value), codegen


@intrinsic
def stack(typingctx, nbytes):
    """The address of so many bytes, a literal number, that live as long as the calling function runs."""
    if not isinstance(nbytes, types.IntegerLiteral):
        return None
    size = nbytes.literal_value

    def codegen(context, builder, signature, args):
        room = cgutils.alloca_once(builder, ir.ArrayType(_DOUBLE, size // 8))
        return builder.ptrtoint(room, _ADDRESS)

    return types.int64(nbytes), codegen


@intrinsic
def widen_float16(typingctx, word):
    """The float32 of a float16's 16 bits, exactly."""

    def codegen(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), _FLOAT)

    return types.float32(types.uint16), codegen


@intrinsic
def round_float16(typingctx, value):
    """The 16 bits of the float16 nearest to a float32, ties to even."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), _WORD)

    return types.uint16(types.float32), codegen


@intrinsic
def widen_bfloat16(typingctx, word):
    """The float32 of a bfloat16's 16 bits, exactly: they are its upper half."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(builder.shl(builder.zext(args[0], _BITS), _BITS(16)), _FLOAT)

    return types.float32(types.uint16), codegen


@intrinsic
def round_bfloat16(typingctx, value):
    """The 16 bits of the bfloat16 nearest to a float32, ties to even; a NaN stays one.

    Adding 0x7fff, and 1 more where the kept half is odd, carries into the kept half exactly when rounding up is due, and past the
    largest number into infinity. A NaN could be carried into infinity or zero, so it is cut and made quiet instead.
    """

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(args[0], _BITS)
        odd = builder.and_(builder.lshr(bits, _BITS(16)), _BITS(1))
        rounded = builder.lshr(builder.add(bits, builder.add(odd, _BITS(0x7FFF))), _BITS(16))
        quiet = builder.or_(builder.lshr(bits, _BITS(16)), _BITS(0x40))
        is_nan = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.trunc(builder.select(is_nan, quiet, rounded), _WORD)

    return types.uint16(types.float32), codegen
