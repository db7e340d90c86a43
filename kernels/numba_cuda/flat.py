"""The flat family: one stretch of a bucket that holds the parameters, gradients and states themselves. Nothing is looked up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from numba import cuda

from ..abi import ROW_WORDS, SKIP
from .target import Target
from .update import make_coefficients, make_group

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Hint, Specialization


def make_flat(kind: Specialization, vectors: int, hint: Hint, persistent: bool, target: Target) -> Callable[..., None]:
    """See `gpu_adam.kernels.numba_cuda.families.make_kernel`."""
    group, coefficients, lanes = make_group(kind, vectors, hint, target), make_coefficients(kind, target), kind.lanes
    dtype = kind.working.dtype.type

    def flat(param, grad, state0, state1, state2, master, average, size, row):
        pointers = (param, grad, state0, state1, state2, master, average)
        c = cuda.local.array(ROW_WORDS, dtype)
        coefficients(row, c)
        if c[SKIP]:
            return
        step = cuda.blockDim.x * lanes
        at = cuda.blockIdx.x * (step * vectors) + cuda.threadIdx.x * lanes
        while True:
            group(pointers, at, step, 0, size, c)
            at += cuda.gridDim.x * (step * vectors)
            if not persistent or at >= size:
                break

    return flat
