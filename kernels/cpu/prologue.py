"""The prologue on the CPU: one kernel that measures leaves, and one that decides and computes the rows; `prologue.cu` is their twin."""

from __future__ import annotations

import math
from operator import mul
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import int64

from gpu_adam.dtypes import FORMATS
from gpu_adam.kernels.abi import MAX_DIMS, MEASURE_WALK_WORDS, STRIDED

from ..abi import COHORTS, LEAF, NORMS, RANGES, RANGES_AT, RECORD_WORDS, ROW_WORDS, SUM_LANES, WORD
from ..abi import LEAF_LANES as LANES
from ..prologue import advance, decide
from ..rules.rule import Rule, coefficients, power
from .float_mode import enter_ieee_mode, leave_ieee_mode
from .intrinsics import array_at, load_at, stack, store_at
from .measure import sum_of_squares
from .target import STORAGE, entry, jit, memory

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format

MEASURE = (int64[::1], *(int64,) * 5)
"""The argument types of the first kernel."""

FINISH = (int64,) * 8
"""The argument types of the second one."""

_MAX_DIMS, _STRIDED, _WALK_WORDS = MAX_DIMS, STRIDED, MEASURE_WALK_WORDS
_LEAF_BYTES, _SUMS_BYTES = LEAF * WORD, SUM_LANES * WORD
_ROW_BYTES, _RECORD_BYTES = ROW_WORDS * WORD, RECORD_WORDS * WORD


def make_measure() -> Any:
    """The kernel of the first stage, not yet compiled.

    ``(words, segments, leaves, partials, first, last)``: the leaves ``[first, last)`` of a `MeasureTable` (`gpu_adam.plan.tables`), whose
    sums go to their slots at the address ``partials``.
    """
    name = "measure"
    float64, float32, float16, bfloat16 = (_make_leaf(f"{name}_{format}", format) for format in FORMATS)

    @entry(name)
    def measure(words, segments, leaves, partials, first, last):
        before = enter_ieee_mode()
        room = stack(_LEAF_BYTES)
        walks = 5 * segments + leaves
        for k in range(first, last):
            s = words[5 * segments + k]
            own = k - words[2 * segments + s]
            start = own * LEAF
            count = min(words[segments + s] - start, LEAF)
            format = words[4 * segments + s]
            walk = -1
            if format >= _STRIDED:
                format -= _STRIDED
                walk = walks + s * _WALK_WORDS
            if format == 0:
                total = float64(words, words[s], start, count, walk, room)
            elif format == 1:
                total = float32(words, words[s], start, count, walk, room)
            elif format == 2:
                total = float16(words, words[s], start, count, walk, room)
            else:
                total = bfloat16(words, words[s], start, count, walk, room)
            store_at(partials + (words[3 * segments + s] + own) * WORD, total)
        leave_ieee_mode(before)

    return measure


def _make_leaf(part: str, format: Format) -> Any:
    """``(words, pointer, start, count, walk, room)``: the sum of squares of ``count`` elements from ``start`` of a gradient on.

    ``walk`` is where in ``words`` its walk begins, -1 if there is none; ``room`` the address of memory for a leaf.
    """
    squares = sum_of_squares(format)
    stored, itemsize = STORAGE[format.name], format.itemsize

    @jit(part)
    def gather(words, pointer, start, count, walk, room):
        """Copy a strided stretch to where it lies one element after the other."""
        inner = words[walk] - 1
        length = words[walk + 1 + inner]
        step = words[walk + 1 + _MAX_DIMS + inner] * itemsize
        k = start
        while k < start + count:
            # One run along the innermost dimension; its first element's coordinates give the address.
            stop = min(start + count, k - k % length + length)
            at = pointer + k % length * step
            rest = k // length
            for d in range(inner - 1, -1, -1):
                at += rest % words[walk + 1 + d] * words[walk + 1 + _MAX_DIMS + d] * itemsize
                rest //= words[walk + 1 + d]
            for j in range(k - start, stop - start):
                store_at(room + j * itemsize, load_at(at, stored))
                at += step
            k = stop

    @jit(part)
    def leaf(words, pointer, start, count, walk, room):
        at = pointer + start * itemsize
        if walk >= 0:
            gather(words, pointer, start, count, walk, room)
            at = room
        rows = (count + LANES - 1) // LANES
        last = at + (rows - 1) * LANES * itemsize
        if count % LANES:
            # Filled up with zeros, which add nothing.
            full = array_at(room + (rows - 1) * LANES * itemsize, LANES, stored)
            part = array_at(last, LANES, stored)
            cut = count % LANES
            for j in range(cut):
                full[j] = part[j]
            for j in range(cut, LANES):
                full[j] = 0
            last = room + (rows - 1) * LANES * itemsize
        return squares(at, rows, last)

    return leaf


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
