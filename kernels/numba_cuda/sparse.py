"""The Numba CUDA kernels for a gradient of some rows only: the sum of rows of the same number, and the update of these rows.

Their twins in CUDA C++ are in `sparse.cu`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from numba import cuda

from ..abi import ROW_WORDS, SKIP, WORD
from .target import Target, device_target, inlined
from .update import make_coefficients, make_group

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format
    from gpu_adam.kernels.specialization import Hint, Specialization


def make_rows(kind: Specialization, vectors: int, hint: Hint, target: Target) -> Callable[..., None]:
    """``(param, grad, state0, …, average, width, count, log2_tile, indices, row)``: a tile of a block updates a row of the parameter.

    The gradient has ``count`` rows of ``width`` elements, one after the other. Row ``q`` of it belongs to the parameter's row
    ``indices[q]``; where that is negative, to none. All are addresses but ``width``, ``count`` and ``log2_tile``.
    """
    group, coefficients = make_group(kind, vectors, hint, target), make_coefficients(kind, target)
    load_word, lanes, dtype = target.load_word, kind.lanes, kind.working.dtype.type
    shift, param_bytes = target.shift_streams(kind.streams), kind.param.itemsize

    def rows(param, grad, state0, state1, state2, master, average, width, count, log2_tile, indices, row):
        q, thread, threads = _tile(log2_tile)
        if q >= count:
            return
        number = load_word(indices + q * WORD)
        c = cuda.local.array(ROW_WORDS, dtype)
        coefficients(row, c)
        if number < 0 or c[SKIP]:
            return
        # As in a table, indices count from the last vector boundary at or before the row's first element, which may lie anywhere.
        first = number * width
        phase = (param // param_bytes + first) % lanes
        first -= phase
        pointers = (param, grad, state0, state1, state2, master, average)
        pointers = shift(pointers, (first, q * width - phase, first))
        step = threads * lanes
        at = thread * lanes
        while at < phase + width:
            group(pointers, at, step, phase, phase + width, c)
            at += step * vectors

    return rows


def make_coalesce(values_format: Format, working: Format, target: Target | None = None) -> Callable[..., None]:
    """``(values, out, indices, width, count, capacity, order, ranked, limit, log2_tile)``; see `gpu_adam.engines.Engine.coalesce`.

    A tile of a block for each of the ``capacity`` rows. A thread adds up single elements, in the order in which the rows were given: the
    sum of a row that occurs often takes as long, but always has the same bits.
    """
    target = target or device_target()
    load, store = target.load(values_format, working), target.store(working, working)
    load_word, store_word, run_end = target.load_word, target.store_word, _make_run_end(target)
    value_bytes, working_bytes, zero = values_format.itemsize, working.itemsize, working.dtype.type(0)

    def coalesce(values, out, indices, width, count, capacity, order, ranked, limit, log2_tile):
        q, thread, threads = _tile(log2_tile)
        if q >= capacity:
            return
        number = -1
        end = q
        if q < count:
            candidate = load_word(ranked + q * WORD)
            is_head = q == 0 or load_word(ranked + (q - 1) * WORD) != candidate
            if is_head and candidate >= 0 and candidate < limit:
                number = candidate
                end = run_end(ranked, q, count)
        if thread == 0:
            store_word(indices + q * WORD, number)
        j = thread
        while j < width:
            total = zero
            if q < end:
                total = load(values + (load_word(order + q * WORD) * width + j) * value_bytes)
                for k in range(q + 1, end):
                    total += load(values + (load_word(order + k * WORD) * width + j) * value_bytes)
            store(out + (q * width + j) * working_bytes, total)
            j += threads

    return coalesce


@inlined
def _tile(log2_tile):
    """The place of a tile's row among those that are given, which thread of the tile this is, and of how many."""
    index = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    threads = 1 << log2_tile
    return index >> log2_tile, index & (threads - 1), threads


def _make_run_end(target: Target) -> Any:
    """``(ranked, q, count)``: the place after the last number that is equal to the one at ``q``, of ``count`` in ascending order."""
    load_word = target.load_word

    @inlined
    def run_end(ranked, q, count):
        # Ever longer steps forward while the numbers are the same, then ever shorter ones: padding may come a hundred thousand times.
        number = load_word(ranked + q * WORD)
        end = q + 1
        step = 1
        growing = True
        while step > 0:
            same = end + step <= count and load_word(ranked + (end + step - 1) * WORD) == number
            if same:
                end += step
            growing = growing and same
            step = step * 2 if growing else step // 2
        return end

    return run_end
