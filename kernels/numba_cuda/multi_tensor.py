"""Multi-tensor apply: any number of tensors in one launch, by the chunks of a table that stays on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from numba import cuda

from .. import table
from ..abi import BEGIN_ROW, COEFFICIENTS_ROW, END_ROW, ROW_WORDS, SKIP, WORD
from .target import Target, inlined
from .update import make_coefficients, make_group

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Hint, Specialization


def make_multi_tensor(
    kind: Specialization, vectors: int, hint: Hint, persistent: bool, target: Target
) -> Callable[..., None]:
    """See `gpu_adam.kernels.numba_cuda.families.make_kernel`."""
    share, coefficients = make_share(target), make_coefficients(kind, target)
    group, lanes, dtype = make_group(kind, vectors, hint, target), kind.lanes, kind.working.dtype.type
    row_bytes = ROW_WORDS * kind.working.itemsize

    def multi_tensor(words, segments, chunks, chunk, rows):
        c = cuda.local.array(ROW_WORDS, dtype)
        step = cuda.blockDim.x * lanes
        number = cuda.blockIdx.x
        while True:
            pointers, start, begin, end, row, _ = share(words, segments, chunks, chunk, number)
            coefficients(rows + row * row_bytes, c)
            if not c[SKIP]:
                # A chunk starts on a multiple of the vector, wherever its segment begins. No `range`, which divides to count its rounds.
                at = start + cuda.threadIdx.x * lanes
                while at < end:
                    group(pointers, at, step, begin, end, c)
                    at += step * vectors
            number += cuda.gridDim.x
            if not persistent or number >= chunks:
                break

    return multi_tensor


def make_share(target: Target) -> Any:
    """A chunk of the table: ``(words, segments, chunks, chunk, number)`` to its segment's streams, its bounds, and what belongs to it.

    ``(pointers, start, begin, end, row, segment)``: the chunk begins at ``start``, its elements are ``[begin, end)``.
    """
    load_word, load_pointers = target.load_word, target.load_pointers
    chunk_segments = inlined(table.chunk_segments)

    @inlined
    def share(words, segments, chunks, chunk, number):
        place = words + (chunk_segments(segments) + number) * WORD
        segment = load_word(place)
        start = load_word(place + chunks * WORD)
        column, next_row = words + segment * WORD, segments * WORD
        return (
            load_pointers(column, next_row),
            start,
            max(start, load_word(column + BEGIN_ROW * next_row)),
            min(start + chunk, load_word(column + END_ROW * next_row)),
            load_word(column + COEFFICIENTS_ROW * next_row),
            segment,
        )

    return share
