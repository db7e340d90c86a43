"""What Numba's CUDA target lacks: arithmetic that is rounded as it says, and memory reached by address, 16 bytes at a time.

Addresses are int64, the same for every format and library. Widening and rounding belong to the access, so that the kernels see
the working format alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

from gpu_adam.kernels.abi import VECTOR_BYTES

from .access import DOUBLE, FLOAT, HALF, I16, I32, I64, MEMORY, pointer, read, write

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format

_STORAGE = {"float64": DOUBLE, "float32": FLOAT, "float16": I16, "bfloat16": I16}


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
            (element,) = read(builder, args[0], 0, _STORAGE[format.name], 1, streamed)
            return _to_working(builder, element, format, working)

        return result(types.int64), codegen

    return load_element


def store(format: Format, working: Format, streamed: bool = False) -> Callable[..., Any]:
    """An intrinsic ``(address, number)``: one element, rounded once to its format; ``streamed`` as for `load`."""
    number = getattr(types, working.name)

    @intrinsic
    def store_element(typingctx, address, value):
        def codegen(context, builder, signature, args):
            write(builder, args[0], 0, [_from_working(builder, args[1], format)], streamed)
            return context.get_dummy_value()

        return types.none(types.int64, number), codegen

    return store_element


def load_vector(format: Format, working: Format, lanes: int, streamed: bool = False) -> Callable[..., Any]:
    """An intrinsic ``(address, values, first)``: ``lanes`` elements into ``values[first:]``, widened or rounded as by `load`.

    In accesses of 16 bytes where the address allows it, else one by one. ``values`` is a local array, which lives in registers as long
    as all its indices are known once the loops are unrolled.
    """
    word, per_word, words = _access(format)

    @intrinsic
    def load_elements(typingctx, address, values, first):
        def codegen(context, builder, signature, args):
            slot = _slots(context, builder, signature, args)
            with builder.if_else(_is_aligned(builder, args[0])) as (aligned, unaligned):
                with aligned:
                    for access in range(lanes // (words * per_word)):
                        vector = read(builder, args[0], access * VECTOR_BYTES, word, words, streamed)
                        for k, packed in enumerate(vector):
                            for part in range(per_word):
                                element = _part(builder, packed, part) if per_word == 2 else packed
                                lane = (access * words + k) * per_word + part
                                builder.store(_to_working(builder, element, format, working), slot(lane))
                with unaligned:
                    for lane in range(lanes):
                        place = lane * format.itemsize
                        (element,) = read(builder, args[0], place, _STORAGE[format.name], 1, streamed)
                        builder.store(_to_working(builder, element, format, working), slot(lane))
            return context.get_dummy_value()

        return types.none(types.int64, values, types.int64), codegen

    return load_elements


def store_vector(format: Format, working: Format, lanes: int, streamed: bool = False) -> Callable[..., Any]:
    """An intrinsic ``(address, values, first)``: the way back of `load_vector`, each number rounded once to its format."""
    _, per_word, words = _access(format)

    @intrinsic
    def store_elements(typingctx, address, values, first):
        def codegen(context, builder, signature, args):
            slot = _slots(context, builder, signature, args)
            elements = [_from_working(builder, builder.load(slot(lane)), format) for lane in range(lanes)]
            with builder.if_else(_is_aligned(builder, args[0])) as (aligned, unaligned):
                with aligned:
                    packed = [_joined(builder, *pair) for pair in _batched(elements, 2)] if per_word == 2 else elements
                    for access, parts in enumerate(_batched(packed, words)):
                        write(builder, args[0], access * VECTOR_BYTES, parts, streamed)
                with unaligned:
                    for lane, element in enumerate(elements):
                        write(builder, args[0], lane * format.itemsize, [element], streamed)
            return context.get_dummy_value()

        return types.none(types.int64, values, types.int64), codegen

    return store_elements


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
            return _to_working(builder, packed, format, working)

        return result(words, types.int64, types.int64), codegen

    return unpacked_element


def _batched(items: list[Any], size: int) -> list[list[Any]]:
    return [items[k : k + size] for k in range(0, len(items), size)]


def _is_aligned(builder: Any, address: Any) -> Any:
    return builder.icmp_unsigned("==", builder.and_(address, I64(VECTOR_BYTES - 1)), I64(0))


def _access(format: Format) -> tuple[Any, int, int]:
    """Of one 16-byte access: the type of a word, elements in a word, and words."""
    if format.itemsize == 2:
        # Pairs in 32-bit words: back ends split a vector of eight 16-bit elements into narrower accesses.
        return I32, 2, 4
    return _STORAGE[format.name], 1, VECTOR_BYTES // format.itemsize


def _slots(context: Any, builder: Any, signature: Any, args: Any) -> Callable[[int], Any]:
    """Pointers to the elements of the local array ``args[1]``, counted from ``args[2]``."""
    data = context.make_array(signature.args[1])(context, builder, value=args[1]).data
    return lambda lane: builder.gep(data, [builder.add(args[2], I64(lane))])


def _part(builder: Any, packed: Any, part: int) -> Any:
    return builder.trunc(builder.lshr(packed, I32(16)) if part else packed, I16)


def _joined(builder: Any, low: Any, high: Any) -> Any:
    return builder.or_(builder.zext(low, I32), builder.shl(builder.zext(high, I32), I32(16)))


def _to_working(builder: Any, element: Any, format: Format, working: Format) -> Any:
    if format.name == "bfloat16":
        # They are the upper half of a float32.
        element = builder.bitcast(builder.shl(builder.zext(element, I32), I32(16)), FLOAT)
    elif format.name == "float16":
        element = builder.fpext(builder.bitcast(element, HALF), FLOAT)
    target = _STORAGE[working.name]
    if element.type == target:
        return element
    return builder.fpext(element, target) if target is DOUBLE else builder.fptrunc(element, target)


def _from_working(builder: Any, value: Any, format: Format) -> Any:
    if format.name == "bfloat16":
        return _to_bfloat16(builder, value)
    if format.name == "float16":
        return builder.bitcast(builder.fptrunc(value, HALF), I16)
    target = _STORAGE[format.name]
    return value if value.type == target else builder.fptrunc(value, target)


def _to_bfloat16(builder: Any, value: Any) -> Any:
    """The nearest bfloat16, ties to even; a NaN stays one.

    Adding 0x7fff, and 1 more where the kept half is odd, carries into the kept half exactly when rounding up is due, and past the
    largest number into infinity. A NaN could be carried into infinity or zero, so it is cut and made quiet instead. Integers and not
    the conversion instruction, which begins with sm_80.
    """
    bits = builder.bitcast(value, I32)
    kept = builder.lshr(bits, I32(16))
    odd = builder.and_(kept, I32(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, I32(0x7FFF))), I32(16))
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(is_nan, builder.or_(kept, I32(0x40)), rounded), I16)
