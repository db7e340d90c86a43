"""One thread's work in the Numba CUDA kernels: load, update and store some elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numba import cuda

from ..abi import ROW_WORDS
from ..rules.rule import average, compiled, decay
from ..streams import VALUES
from .target import Target, inlined

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Hint, Specialization


def make_coefficients(kind: Specialization, target: Target) -> Any:
    """``(row, c)``: a row of coefficients into a local array, which no store through a stream can be thought to change."""
    load, itemsize = target.load(kind.working, kind.working), kind.working.itemsize

    @inlined
    def coefficients(row, c):
        for k in range(ROW_WORDS):
            c[k] = load(row + k * itemsize)

    return coefficients


def make_update(kind: Specialization, target: Target) -> Any:
    """``(values, k, c)``: the update of the k-th of some elements, in place; see `gpu_adam.kernels.numba_cuda.stream`."""
    before, after = inlined(decay(target.fma, target.mul)), inlined(average(target.fma))
    rule, averages = compiled(kind.rule, target.fma, target.sqrt, inlined), kind.average

    @inlined
    def update(values, k, c):
        theta, gradient, x0, x1, x2, mean = values
        theta[k], gradient[k] = before(theta[k], gradient[k], c)
        # A state that the rule lacks is some number; the compiler drops it.
        theta[k], x0[k], x1[k], x2[k] = rule(theta[k], gradient[k], x0[k], x1[k], x2[k], c)
        if averages:
            mean[k] = after(mean[k], theta[k], c)

    return update


def make_transfers(kind: Specialization, lanes: int, hint: Hint, target: Target) -> tuple[Any, Any]:
    """The load and the store of ``lanes`` elements of all streams; see `gpu_adam.kernels.numba_cuda.stream`."""
    how = (kind.streams, kind.working, lanes, hint)
    return target.load_streams(*how), target.store_streams(*how)


def make_values(kind: Specialization, count: int) -> Any:
    """``()``: room for ``count`` elements, a local array for each of ``VALUES``."""
    dtype = kind.working.dtype.type

    @inlined
    def values():
        return (
            cuda.local.array(count, dtype),
            cuda.local.array(count, dtype),
            cuda.local.array(count, dtype),
            cuda.local.array(count, dtype),
            cuda.local.array(count, dtype),
            cuda.local.array(count, dtype),
        )

    return values


assert len(VALUES) == 6, "the values are written out"


def make_group(kind: Specialization, vectors: int, hint: Hint, target: Target) -> Any:
    """A thread's vectors at ``at``, ``at + step``, …, cut to ``[begin, end)``, all loads before the first use.

    ``(pointers, at, step, begin, end, c)`` with the streams' base addresses, one for each of ``ROLES``.
    """
    update, lanes = make_update(kind, target), kind.lanes
    load, store = make_transfers(kind, 1, hint, target)
    load_vector, store_vector = make_transfers(kind, lanes, hint, target)
    count = vectors * lanes
    make_room = make_values(kind, count)

    @inlined
    def group(pointers, at, step, begin, end, c):
        values = make_room()
        for v in range(vectors):
            i, first = at + v * step, v * lanes
            if begin <= i and i + lanes <= end:
                load_vector(pointers, (i, i, i), values, first)
            else:
                for lane in range(first, first + lanes):
                    # Lanes out of bounds compute with some number, and nothing of it is stored.
                    theta, gradient, x0, x1, x2, mean = values
                    theta[lane] = gradient[lane] = x0[lane] = x1[lane] = x2[lane] = mean[lane] = c[0]
                    k = i + lane - first
                    if begin <= k and k < end:
                        load(pointers, (k, k, k), values, lane)
        for lane in range(count):
            update(values, lane, c)
        for v in range(vectors):
            i, first = at + v * step, v * lanes
            if begin <= i and i + lanes <= end:
                store_vector(pointers, (i, i, i), values, first)
            else:
                for lane in range(first, first + lanes):
                    k = i + lane - first
                    if begin <= k and k < end:
                        store(pointers, (k, k, k), values, lane)

    return group
