"""The CPU kernels for a gradient of some rows only: the update of these rows, and the sum of rows of the same number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import int64

from ..abi import SKIP
from .float_mode import enter_ieee_mode, leave_ieee_mode
from .intrinsics import LINE, NoAliasCompiler, array_at, prefetch
from .stream import prefetch_streams, shift_streams
from .target import AHEAD, STORAGE, entry, jit, loader
from .update import make_span

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format
    from gpu_adam.kernels.specialization import Specialization

COALESCE = (int64,) * 11
"""The argument types of the kernel."""


def make_rows(kind: Specialization) -> Any:
    """See `gpu_adam.kernels.cpu.families.make_kernel`."""
    span, shift, ask_for = make_span(kind), shift_streams(kind.streams), prefetch_streams(kind.streams)

    @entry(kind.name)
    def rows(param, grad, state0, state1, state2, master, average, width, indices, first, last, row):
        if row[SKIP]:
            return
        before = enter_ieee_mode()
        pointers = (param, grad, state0, state1, state2, master, average)
        numbers = array_at(indices, last, np.int64)
        for q in range(first, last):
            # The rows lie anywhere, so the processor does not know the next ones before it is there.
            if q + AHEAD < last and numbers[q + AHEAD] >= 0:
                at = numbers[q + AHEAD] * width
                ask_for(pointers, (at, 0, at), width)
            if numbers[q] >= 0:
                at = numbers[q] * width
                span(shift(pointers, (at, q * width, at)), 0, width, row)
        leave_ieee_mode(before)

    return rows


def make_coalesce(values: Format, working: Format) -> Any:
    """The kernel for values of a format, not yet compiled.

    ``(values, out, indices, width, count, capacity, order, ranked, limit, first, last)``, all int64: the sums ``[first, last)`` of
    `gpu_adam.engines.Engine.coalesce`.
    """
    name = f"coalesce_{values}_{working}"
    load = loader(values.name, working)
    stored, result, stored_bytes, result_bytes = (
        STORAGE[values.name],
        STORAGE[working.name],
        values.itemsize,
        working.itemsize,
    )

    @jit(name, pipeline_class=NoAliasCompiler)
    def copy(total, part):
        for k in range(total.size):
            total[k] = load(part[k])

    @jit(name, pipeline_class=NoAliasCompiler)
    def add(total, part):
        for k in range(total.size):
            total[k] += load(part[k])

    @entry(name)
    def coalesce(source, out, indices, width, count, capacity, order, ranked, limit, first, last):
        before = enter_ieee_mode()
        numbers = array_at(indices, capacity, np.int64)
        places = array_at(order, count, np.int64)
        rows = array_at(ranked, count, np.int64)
        for q in range(first, last):
            if q + AHEAD < min(last, count):
                # The rows lie anywhere, so the processor does not know the next ones before it is there.
                at = source + places[q + AHEAD] * width * stored_bytes
                for line in range(0, width * stored_bytes, LINE):
                    prefetch(at + line)
            total = array_at(out + q * width * result_bytes, width, result)
            head = q < count and (q == 0 or rows[q - 1] != rows[q]) and 0 <= rows[q] < limit
            numbers[q] = rows[q] if head else -1
            if not head:
                total[:] = 0
                continue
            copy(total, array_at(source + places[q] * width * stored_bytes, width, stored))
            other = q + 1
            while other < count and rows[other] == rows[q]:
                add(total, array_at(source + places[other] * width * stored_bytes, width, stored))
                other += 1
        leave_ieee_mode(before)

    return coalesce
