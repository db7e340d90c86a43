"""Walks: where the elements of strided tensors lie; the twin of `walk.cuh`."""

from __future__ import annotations

from typing import Any

from ..abi import MAX_DIMS, WALK_SIZES, WALK_STRIDES, WORD
from .target import Target, inlined


def make_unravel(tensors: int, count: int, target: Target) -> Any:
    """``(walk, dims, rest, first, second)``: where ``count`` elements lie in each of one or two tensors, in elements from its first.

    ``walk`` is the address of the walk, and ``dims`` its first word, which the caller may load once for many elements. ``rest`` has the
    elements' numbers in its order, which are used up; what is added to ``first`` and ``second`` are the places. Strides may be negative.
    """
    load_word, two = target.load_word, tensors == 2

    @inlined
    def unravel(walk, dims, rest, first, second):
        # From the innermost dimension outwards.
        for d in range(dims - 1, -1, -1):
            size = load_word(walk + (WALK_SIZES + d) * WORD)
            stride = load_word(walk + (WALK_STRIDES + d) * WORD)
            other = load_word(walk + (WALK_STRIDES + MAX_DIMS + d) * WORD) if two else stride
            for n in range(count):
                outer = rest[n] // size
                coordinate = rest[n] - outer * size
                first[n] += coordinate * stride
                if two:
                    second[n] += coordinate * other
                rest[n] = outer

    return unravel
