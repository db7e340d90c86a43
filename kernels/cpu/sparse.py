"""The sum of a gradient's rows that have the same number, on the CPU; `rows.cu` is its twin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import int64

from .float_mode import enter_ieee_mode, leave_ieee_mode
from .intrinsics import LINE, NoAliasCompiler, array_at, prefetch
from .target import AHEAD, STORAGE, entry, jit, loader

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format

COALESCE = (int64,) * 11
"""The argument types of the kernel."""


def make_coalesce(values: Format, working: Format) -> Any:
    """The kernel for values of a format, not yet compiled.

    ``(values, out, indices, width, count, capacity, order, ranked, limit, first, last)``, all int64: the sums ``[first, last)`` of
    `gpu_adam.engines.Engine.coalesce`.
    """
    name = f"coalesce_{values}_{working}"
    load = loader(values, working)
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
