"""The streams of an update: an element, or some of them one after the other, of every stream at once.

A function for all streams is one intrinsic, whose loop over them runs while it is compiled: a codec for a stream is another case of
`codec.py`, or of `_load` and `_store` here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from numba.cuda import types
from numba.cuda.extending import intrinsic

from ..abi import ROLES, VECTOR_BYTES
from ..streams import VALUES
from .access import I16, I32, I64, pointer, read, write
from .codec import WORDS, from_memory, to_memory

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format
    from gpu_adam.kernels.specialization import Hint
    from gpu_adam.kernels.streams import Storage, Stream

_POINTERS, _PLACES = types.UniTuple(types.int64, len(ROLES)), types.UniTuple(types.int64, 3)


def load_streams(streams: Sequence[Stream], working: Format, lanes: int, hint: Hint) -> Callable[..., Any]:
    """An intrinsic ``(pointers, places, values, first)``: ``lanes`` elements of each stream that is read.

    They become ``values[…][first:]``, widened or rounded as by `gpu_adam.kernels.numba_cuda.intrinsics.load`. Several are accessed by 16
    bytes where the address allows it, else one by one.

    Args:
        streams: The streams.
        working: The format of the values.
        lanes: How many elements lie one after the other.
        hint: What the caches are told.

    The arguments of the function: an address for each of ``ROLES``; where the first element lies in the parameter, in the gradient and in
    what is kept; a local array for each of ``VALUES``, which lives in registers as long as all its indices are known once the loops are
    unrolled; and an index in these.
    """
    return _intrinsic_of([stream for stream in streams if stream.read], working, lanes, hint, _load)


def store_streams(streams: Sequence[Stream], working: Format, lanes: int, hint: Hint) -> Callable[..., Any]:
    """An intrinsic like that of `load_streams`, for the way back to each stream that is written; each number is rounded once."""
    return _intrinsic_of([stream for stream in streams if stream.written], working, lanes, hint, _store)


def shift_streams(streams: Sequence[Stream]) -> Callable[..., Any]:
    """An intrinsic ``(pointers, places)``: the pointers, those of the streams moved to these places."""

    @intrinsic
    def shifted(typingctx, pointers, places):
        def codegen(context, builder, signature, args):
            moved = args[0]
            for stream in sorted(streams, key=lambda stream: stream.row):
                moved = builder.insert_value(moved, _address(builder, args[0], args[1], stream), stream.row)
            return moved

        return _POINTERS(_POINTERS, _PLACES), codegen

    return shifted


@intrinsic
def load_pointers(typingctx, address, step):
    """``(address, step)``: the words at an address and every ``step`` bytes further, one for each of ``ROLES``."""

    def codegen(context, builder, signature, args):
        words: list[Any] = []
        for row in range(len(ROLES)):
            place = builder.add(args[0], builder.mul(I64(row), args[1]))
            words.append(builder.load(pointer(builder, place, I64), align=8))
        return context.make_tuple(builder, _POINTERS, words)

    return _POINTERS(types.int64, types.int64), codegen


def _address(builder: Any, pointers: Any, places: Any, stream: Stream) -> Any:
    nbytes = builder.mul(builder.extract_value(places, stream.place), I64(stream.storage.itemsize))
    return builder.add(builder.extract_value(pointers, stream.row), nbytes)


def _intrinsic_of(streams: Sequence[Stream], working: Format, lanes: int, hint: Hint, emit: Callable[..., None]) -> Any:
    @intrinsic
    def transfer(typingctx, pointers, places, values, first):
        array = values.dtype

        def codegen(context, builder, signature, args):
            for stream in streams:
                address = _address(builder, args[0], args[1], stream)
                part = builder.extract_value(args[2], stream.value)
                data = context.make_array(array)(context, builder, value=part).data
                # For the next forward pass, which reads the parameter that is written.
                kept = hint == "keep_param" and emit is _store and stream.role == "param"

                def slot(lane, data=data):
                    return builder.gep(data, [builder.add(args[3], I64(lane))])

                emit(builder, address, slot, stream.storage, working, lanes, hint != "plain" and not kept)
            return context.get_dummy_value()

        return types.none(_POINTERS, _PLACES, types.UniTuple(array, len(VALUES)), types.int64), codegen

    return transfer


Slot = Callable[[int], Any]
"""The pointer to a lane's value."""


def _load(
    builder: Any, address: Any, slot: Slot, storage: Storage, working: Format, lanes: int, streamed: bool
) -> None:
    def by_element() -> None:
        for lane in range(lanes):
            (element,) = read(builder, address, lane * storage.itemsize, WORDS[storage.name], 1, streamed)
            builder.store(from_memory(builder, element, storage.name, working), slot(lane))

    if lanes == 1:
        by_element()
        return
    word, per_word, words = _access(storage)
    with builder.if_else(_is_aligned(builder, address)) as (aligned, unaligned):
        with aligned:
            for access in range(lanes // (words * per_word)):
                vector = read(builder, address, access * VECTOR_BYTES, word, words, streamed)
                for k, packed in enumerate(vector):
                    for part in range(per_word):
                        element = _part(builder, packed, part) if per_word == 2 else packed
                        lane = (access * words + k) * per_word + part
                        builder.store(from_memory(builder, element, storage.name, working), slot(lane))
        with unaligned:
            by_element()


def _store(
    builder: Any, address: Any, slot: Slot, storage: Storage, working: Format, lanes: int, streamed: bool
) -> None:
    elements = [to_memory(builder, builder.load(slot(lane)), storage.name) for lane in range(lanes)]

    def by_element() -> None:
        for lane, element in enumerate(elements):
            write(builder, address, lane * storage.itemsize, [element], streamed)

    if lanes == 1:
        by_element()
        return
    _, per_word, words = _access(storage)
    with builder.if_else(_is_aligned(builder, address)) as (aligned, unaligned):
        with aligned:
            packed = [_joined(builder, *pair) for pair in _batched(elements, 2)] if per_word == 2 else elements
            for access, parts in enumerate(_batched(packed, words)):
                write(builder, address, access * VECTOR_BYTES, parts, streamed)
        with unaligned:
            by_element()


def _access(storage: Storage) -> tuple[Any, int, int]:
    """Of one 16-byte access: the type of a word, elements in a word, and words."""
    if storage.itemsize == 2:
        # Pairs in 32-bit words: back ends split a vector of eight 16-bit elements into narrower accesses.
        return I32, 2, 4
    return WORDS[storage.name], 1, VECTOR_BYTES // storage.itemsize


def _is_aligned(builder: Any, address: Any) -> Any:
    return builder.icmp_unsigned("==", builder.and_(address, I64(VECTOR_BYTES - 1)), I64(0))


def _batched(items: list[Any], size: int) -> list[list[Any]]:
    return [items[k : k + size] for k in range(0, len(items), size)]


def _part(builder: Any, packed: Any, part: int) -> Any:
    return builder.trunc(builder.lshr(packed, I32(16)) if part else packed, I16)


def _joined(builder: Any, low: Any, high: Any) -> Any:
    return builder.or_(builder.zext(low, I32), builder.shl(builder.zext(high, I32), I32(16)))
