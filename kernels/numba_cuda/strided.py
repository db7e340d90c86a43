"""The strided family: tensors with strides of their own, element by element.

What is kept of a tensor lies in the walk's order; parameter and gradient are reached through their strides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numba import cuda

from .. import table
from ..abi import ROW_WORDS, SKIP, WALK_WORDS, WORD
from .multi_tensor import make_share
from .target import Target, inlined
from .update import make_coefficients, make_transfers, make_update, make_values
from .walk import make_unravel

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Hint, Specialization


def make_strided(kind: Specialization, hint: Hint, persistent: bool, target: Target) -> Callable[..., None]:
    """See `gpu_adam.kernels.numba_cuda.families.make_kernel`."""
    share, coefficients, walks = make_share(target), make_coefficients(kind, target), inlined(table.walks)
    load_word, (load, store) = target.load_word, make_transfers(kind, 1, hint, target)
    update, make_room, unravel = make_update(kind, target), make_values(kind, 1), make_unravel(2, 1, target)
    dtype, row_bytes = kind.working.dtype.type, ROW_WORDS * kind.working.itemsize

    def strided(words, segments, chunks, chunk, rows):
        c = cuda.local.array(ROW_WORDS, dtype)
        values = make_room()
        rest = cuda.local.array(1, np.int64)
        param = cuda.local.array(1, np.int64)
        grad = cuda.local.array(1, np.int64)
        number = cuda.blockIdx.x
        while True:
            pointers, _, begin, end, row, segment = share(words, segments, chunks, chunk, number)
            coefficients(rows + row * row_bytes, c)
            walk = words + (walks(segments, chunks) + segment * WALK_WORDS) * WORD
            dims = load_word(walk)
            k = end if c[SKIP] else begin + cuda.threadIdx.x
            while k < end:
                rest[0] = k
                param[0] = grad[0] = 0
                unravel(walk, dims, rest, param, grad)
                places = (param[0], grad[0], k)
                load(pointers, places, values, 0)
                update(values, 0, c)
                store(pointers, places, values, 0)
                k += cuda.blockDim.x
            number += cuda.gridDim.x
            if not persistent or number >= chunks:
                break

    return strided
