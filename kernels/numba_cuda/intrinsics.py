"""What Numba's CUDA target lacks: arithmetic that is rounded as it says, and memory reached by address.

Addresses are int64, the same for every format and library. Widening and rounding belong to the access, so that the kernels see
the working format alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

from ..abi import VECTOR_BYTES
from .access import DOUBLE, FLOAT, I16, I32, I64, MEMORY, pointer, read, write
from .codec import WORDS, from_memory, to_memory

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format


@intrinsic
def fma(typingctx, a, b, c):
    """``a*b + c``, rounded once."""

    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    # Mixed formats are refused rather than promoted: a float64 that slips in would change the bits.
    return (a(a, a, a), codegen) if a == b == c else None


@intrinsic
def mul(typingctx, a, b):
    """``a*b``, rounded by itself, in float32 if both are, else in float64.

    NVVM and the assembler, as Numba calls them, contract a multiplication with the addition that follows it, but not this one.
    """
    single = a == b == types.float32
    result, real, name = (types.float32, FLOAT, "f") if single else (types.float64, DOUBLE, "d")

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(real, [real, real])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.nvvm.mul.rn.{name}"), args)

    return result(result, result), codegen


@intrinsic
def load_word(typingctx, address):
    """The int64 at an address."""

    def codegen(context, builder, signature, args):
        return builder.load(pointer(builder, args[0], I64), align=8)

    return types.int64(types.int64), codegen


@intrinsic
def store_word(typingctx, address, word):
    """Write an int64 to an address."""

    def codegen(context, builder, signature, args):
        builder.store(args[1], pointer(builder, args[0], I64), align=8)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), codegen


@intrinsic
def load_fresh(typingctx, address):
    """The float64 at an address as other blocks have left it, past the L1 cache, which may hold what was there before."""

    def codegen(context, builder, signature, args):
        # In PTX itself: LLVM has such loads for integers only, and NVVM not all of them.
        kind = ir.FunctionType(DOUBLE, [I64])
        return builder.asm(kind, "ld.relaxed.gpu.global.f64 $0, [$1];", f"=d,l,{MEMORY}", args, side_effect=True)

    return types.float64(types.int64), codegen


@intrinsic
def count_in(typingctx, address):
    """Add 1 to the int64 at an address, one block after the other; what it was before. It orders nothing else."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", pointer(builder, args[0], I64), I64(1), "monotonic")

    return types.int64(types.int64), codegen


def load(format: Format, working: Format, streamed: bool = False) -> Callable[..., Any]:
    """An intrinsic ``(address) -> number``: one element, widened exactly, or rounded once if the working format is narrower.

    If it is ``streamed``, the caches are told that it is to leave them first.
    """
    result = getattr(types, working.name)

    @intrinsic
    def load_element(typingctx, address):
        def codegen(context, builder, signature, args):
            (element,) = read(builder, args[0], 0, WORDS[format.name], 1, streamed)
            return from_memory(builder, element, format.name, working)

        return result(types.int64), codegen

    return load_element


def store(format: Format, working: Format, streamed: bool = False) -> Callable[..., Any]:
    """An intrinsic ``(address, number)``: one element, rounded once to its format; ``streamed`` as for `load`."""
    number = getattr(types, working.name)

    @intrinsic
    def store_element(typingctx, address, value):
        def codegen(context, builder, signature, args):
            write(builder, args[0], 0, [to_memory(builder, args[1], format.name)], streamed)
            return context.get_dummy_value()

        return types.none(types.int64, number), codegen

    return store_element


@intrinsic
def load_packed(typingctx, address, words, first):
    """``(address, words, first)``: the 16 bytes at an address that is a multiple of 16, as four int32 into ``words[first:]``."""

    def codegen(context, builder, signature, args):
        slot = _slots(context, builder, signature, args)
        vector = builder.load(pointer(builder, args[0], ir.VectorType(I32, 4)), align=VECTOR_BYTES)
        for k in range(4):
            builder.store(builder.extract_element(vector, I32(k)), slot(k))
        return context.get_dummy_value()

    return types.none(types.int64, words, types.int64), codegen


def element(format: Format, working: Format) -> Callable[..., Any]:
    """An intrinsic ``(words, first, k) -> number``: the k-th element in 16 bytes that `load_packed` loaded, widened as by `load`."""
    result = getattr(types, working.name)

    @intrinsic
    def unpacked_element(typingctx, words, first, k):
        def codegen(context, builder, signature, args):
            data = context.make_array(signature.args[0])(context, builder, value=args[0]).data
            # Numbers known once the loops are unrolled, so that nothing of this is left but the words themselves.
            byte = builder.mul(args[2], I64(format.itemsize))
            place = builder.add(args[1], builder.lshr(byte, I64(2)))
            packed = builder.load(builder.gep(data, [place]))
            if format.itemsize == 2:
                shift = builder.shl(builder.trunc(builder.and_(byte, I64(2)), I32), I32(3))
                packed = builder.trunc(builder.lshr(packed, shift), I16)
            elif format.itemsize == 4:
                packed = builder.bitcast(packed, FLOAT)
            else:
                upper = builder.load(builder.gep(data, [builder.add(place, I64(1))]))
                upper = builder.shl(builder.zext(upper, I64), I64(32))
                packed = builder.bitcast(builder.or_(builder.zext(packed, I64), upper), DOUBLE)
            return from_memory(builder, packed, format.name, working)

        return result(words, types.int64, types.int64), codegen

    return unpacked_element


def _slots(context: Any, builder: Any, signature: Any, args: Any) -> Callable[[int], Any]:
    """Pointers to the elements of the local array ``args[1]``, counted from ``args[2]``."""
    data = context.make_array(signature.args[1])(context, builder, value=args[1]).data
    return lambda lane: builder.gep(data, [builder.add(args[2], I64(lane))])
