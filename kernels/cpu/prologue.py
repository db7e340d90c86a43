"""The second and third stage of the prologue on the CPU: a kernel that decides and computes the rows; `prologue.cu` is its twin."""

from __future__ import annotations

import math
from operator import mul
from typing import Any

import numpy as np
from numba import int64

from ..abi import COHORTS, NORMS, RANGES, RANGES_AT, RECORD_WORDS, ROW_WORDS, SUM_LANES, WORD
from ..prologue import advance, decide
from ..rules.rule import Rule, coefficients, power
from .float_mode import enter_ieee_mode, leave_ieee_mode
from .intrinsics import array_at, stack
from .target import entry, jit, memory

FINISH = (int64,) * 8
"""The argument types of the kernel."""

_SUMS_BYTES = SUM_LANES * WORD
_ROW_BYTES, _RECORD_BYTES = ROW_WORDS * WORD, RECORD_WORDS * WORD


@jit("prologue")
def _narrow(x, wide):
    return x if wide else np.float64(np.float32(x))


_power = jit("prologue")(power(mul))
_decide = jit("prologue")(decide(memory()))


@jit("prologue")
def _sum_range(partials, slots, sources, begin, end):
    sums = array_at(stack(_SUMS_BYTES), SUM_LANES, np.float64)
    sums[:] = 0.0
    for first in range(begin, end, SUM_LANES):
        for lane in range(min(SUM_LANES, end - first)):
            value = partials[first + lane]
            for source in range(1, sources):
                value += partials[source * slots + first + lane]
            sums[lane] += value
    count = SUM_LANES
    while count > 1:
        count //= 2
        for k in range(count):
            sums[k] = sums[2 * k] + sums[2 * k + 1]
    return sums[0]


def make_finish(rule: Rule) -> Any:
    """The kernel of the second and third stage with a rule's coefficients, not yet compiled.

    ``(partials, slots, sources, control, settings, counts, singles, doubles)``: addresses, and how many slots each of how many sources has.
    """
    name = f"{rule.symbol}_finish"
    on = memory()
    load_word, store_number = on.load_word, on.store_number
    own = jit(name)(rule.coefficients(mul, math.sqrt, _narrow, _power))
    advanced = jit(name)(advance(on, jit(name)(coefficients(mul, _narrow, _power, own))))

    @entry(name)
    def finish(partials, slots, sources, control, settings, counts, singles, doubles):
        before = enter_ieee_mode()
        values = array_at(partials, slots * sources, np.float64)
        at = settings + load_word(settings + RANGES_AT * WORD) * WORD
        for r in range(load_word(settings + RANGES * WORD)):
            begin, end = load_word(at + 2 * r * WORD), load_word(at + (2 * r + 1) * WORD)
            store_number(control + (NORMS + r) * WORD, _sum_range(values, slots, sources, begin, end))
        _decide(control, settings)
        h = array_at(stack(_RECORD_BYTES), RECORD_WORDS, np.float64)
        row = array_at(stack(_ROW_BYTES), ROW_WORDS, np.float64)
        for cohort in range(load_word(settings + COHORTS * WORD)):
            advanced(control, settings, counts, cohort, singles, doubles, h, row)
        leave_ieee_mode(before)

    return finish
