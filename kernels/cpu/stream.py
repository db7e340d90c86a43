"""The streams of an update by their list: addresses, and arrays of some elements from there on.

``pointers`` are addresses, one for each of ``ROLES``. ``places`` say where an element lies: in the parameter, in the gradient, and in all
that is kept beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..abi import ROLES
from .intrinsics import LINE, array_from, ask_for_line
from .target import STORAGE

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Specialization
    from gpu_adam.kernels.streams import Stream

_WORD = ir.IntType(64)
_POINTERS, _PLACES = types.UniTuple(types.int64, len(ROLES)), types.UniTuple(types.int64, 3)


@intrinsic
def load_pointers(typingctx, words, at, step):
    """``(words, at, step)``: the words at an index and every ``step`` further, one for each of ``ROLES``."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, value=args[0]).data
        places = [builder.add(args[1], builder.mul(_WORD(row), args[2])) for row in range(len(ROLES))]
        return context.make_tuple(builder, _POINTERS, [builder.load(builder.gep(data, [place])) for place in places])

    return _POINTERS(words, types.int64, types.int64), codegen


def arrays_of(kind: Specialization) -> Callable[..., Any]:
    """An intrinsic ``(pointers, places, size)``: ``size`` elements of each stream as an array, one for each of ``ROLES``.

    What the kernel does not touch is an array too, to be dropped.
    """
    streams = {stream.role: stream for stream in kind.streams}
    arrays = [
        types.Array(_number(streams[role].storage.name if role in streams else kind.working.name), 1, "C")
        for role in ROLES
    ]

    @intrinsic
    def stretch(typingctx, pointers, places, size):
        whole = types.Tuple(arrays)

        def codegen(context, builder, signature, args):
            found = []
            for row, (role, array) in enumerate(zip(ROLES, arrays, strict=True)):
                address = builder.extract_value(args[0], row)
                if role in streams:
                    address = _address(builder, args[0], args[1], streams[role])
                found.append(array_from(context, builder, array, address, args[2]))
            return context.make_tuple(builder, whole, found)

        return whole(_POINTERS, _PLACES, types.int64), codegen

    return stretch


def shift_streams(streams: Sequence[Stream]) -> Callable[..., Any]:
    """An intrinsic ``(pointers, places)``: the pointers, those of the streams moved to these places."""

    @intrinsic
    def shifted(typingctx, pointers, places):
        def codegen(context, builder, signature, args):
            moved = args[0]
            for stream in streams:
                moved = builder.insert_value(moved, _address(builder, args[0], args[1], stream), stream.row)
            return moved

        return _POINTERS(_POINTERS, _PLACES), codegen

    return shifted


def prefetch_streams(streams: Sequence[Stream]) -> Callable[..., Any]:
    """An intrinsic ``(pointers, places, size)``: ask for ``size`` elements of each stream that is written."""
    written = [stream for stream in streams if stream.written]

    @intrinsic
    def ask_for(typingctx, pointers, places, size):
        def codegen(context, builder, signature, args):
            for stream in written:
                address = _address(builder, args[0], args[1], stream)
                nbytes = builder.mul(args[2], _WORD(stream.storage.itemsize))
                with cgutils.for_range_slice(builder, _WORD(0), nbytes, _WORD(LINE), inc=True) as (line, _):
                    ask_for_line(builder, builder.add(address, line))
            return context.get_dummy_value()

        return types.none(_POINTERS, _PLACES, types.int64), codegen

    return ask_for


def _address(builder: Any, pointers: Any, places: Any, stream: Stream) -> Any:
    nbytes = builder.mul(builder.extract_value(places, stream.place), _WORD(stream.storage.itemsize))
    return builder.add(builder.extract_value(pointers, stream.row), nbytes)


def _number(stored: str) -> Any:
    return numba.from_dtype(STORAGE[stored])
