"""What Numba's CPU target lacks: memory by its address.

Each is a few LLVM instructions, which the vectoriser sees through, unlike a call.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

_BITS = ir.IntType(32)
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


def array_from(context: Any, builder: Any, array_type: Any, address: Any, size: Any) -> Any:
    """Emit an array of a type, of ``size`` elements at an address."""
    element = context.get_data_type(array_type.dtype)
    itemsize = context.get_constant(types.intp, context.get_abi_sizeof(element))
    array = make_array(array_type)(context, builder)
    populate_array(
        array,
        data=builder.inttoptr(address, element.as_pointer()),
        shape=[size],
        strides=[itemsize],
        itemsize=itemsize,
        meminfo=None,
    )
    return array._getvalue()


@intrinsic
def array_at(typingctx, address, size, dtype):
    """A one-dimensional array of ``size`` elements of ``dtype`` at an address."""
    array_type = types.Array(dtype.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        return array_from(context, builder, array_type, args[0], args[1])

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
