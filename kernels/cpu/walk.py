"""Walks: where the elements of strided tensors lie; the twin of `walk.cuh`."""

from __future__ import annotations

import functools
from typing import Any

from ..abi import MAX_DIMS, WALK_SIZES, WALK_STRIDES
from .target import jit


@functools.cache
def make_unravel(tensors: int) -> Any:
    """``(words, walk, dims, k)``: where the ``k``-th place of the outermost dimensions lies in each of one or two tensors.

    In elements from a tensor's first one, and 0 in the second of one. ``walk`` is where in ``words`` the walk begins, ``dims`` how many
    dimensions there are. Strides may be negative.
    """
    two = tensors == 2

    # A call takes as long as a short run along the innermost dimension.
    @jit(f"walk_{tensors}", forceinline=True)
    def unravel(words, walk, dims, k):
        first, second, rest = 0, 0, k
        for d in range(dims - 1, -1, -1):
            size = words[walk + WALK_SIZES + d]
            coordinate = rest % size
            rest //= size
            first += coordinate * words[walk + WALK_STRIDES + d]
            if two:
                second += coordinate * words[walk + WALK_STRIDES + MAX_DIMS + d]
        return first, second

    return unravel
