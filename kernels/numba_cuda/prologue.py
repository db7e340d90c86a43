"""The Numba CUDA kernel that a step begins with: its three stages, and the order of its sums, are stated in `prologue.py`.

Its twin in CUDA C++ is `prologue.cu`. The first stage is in `measure.py`; the block that is done last adds up all leaves and computes the
coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import cuda

from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64

from ..abi import COHORTS, NORMS, PROLOGUE_THREADS, RANGES, RANGES_AT, RECORD_WORDS, ROW_WORDS, SUM_LANES, TICKET, WORD
from ..prologue import advance, decide
from ..rules.rule import Rule, coefficients, power
from .measure import BFLOAT16_CODE, BOARD, FLOAT16_CODE, FLOAT32_CODE, FLOAT64_CODE, make_measure
from .target import Target, device_target, inlined

SLOTS_IN_FLIGHT = 16
"""Partial sums that a thread of the last block begins to load before it uses the first."""

assert PROLOGUE_THREADS == SUM_LANES, "a thread for each"


def make_prologue(rule: Rule, target: Target | None = None) -> Callable[..., None]:
    """``(table, segments, leaves, partials, slots, sources, control, settings, counts, singles, doubles, finish)``.

    Addresses and numbers: the table of a `gpu_adam.plan.tables.MeasureTable`; the partial sums, for each of ``sources`` devices ``slots``;
    the control words, the settings, the cohorts' step counts, the rows of coefficients in float32 and float64; and whether more than the
    first stage is wanted.

    Args:
        rule: A rule whose coefficients it computes.
        target: Where it will run, by default on the GPU.
    """
    target = target or device_target()
    measure, sum_slots = make_measure(target), _make_sum_slots(target)
    load_word, store_word, count_in = target.load_word, target.store_word, target.count_in
    on = _by_address(target)
    decided, advanced = inlined(decide(on)), inlined(advance(on, _make_fill(rule, target)))

    def prologue(
        table, segments, leaves, partials, slots, sources, control, settings, counts, singles, doubles, finish
    ):
        board = cuda.shared.array(BOARD, np.float64)
        measure(board, table, segments, leaves, partials)
        if finish == 0:
            return
        cuda.threadfence()
        cuda.syncthreads()
        thread = cuda.threadIdx.x
        is_last = 0
        if thread == 0 and count_in(control + TICKET * WORD) == cuda.gridDim.x - 1:
            is_last = 1
        if cuda.syncthreads_or(is_last) == 0:
            return
        cuda.threadfence()
        sum_slots(board, partials, slots, sources, control, settings)
        if thread == 0:
            store_word(control + TICKET * WORD, 0)
            decided(control, settings)
        cuda.syncthreads()
        record = cuda.local.array(RECORD_WORDS, np.float64)
        row = cuda.local.array(ROW_WORDS, np.float64)
        cohort = thread
        while cohort < load_word(settings + COHORTS * WORD):
            advanced(control, settings, counts, cohort, singles, doubles, record, row)
            cohort += PROLOGUE_THREADS

    return prologue


def _make_sum_slots(target: Target) -> Any:
    """The second stage, ``(board, partials, slots, sources, control, settings)``: the sum of each range of slots, to be decided on."""
    load_word, load_fresh, store_number = target.load_word, target.load_fresh, target.store(FLOAT64, FLOAT64)

    @inlined
    def sum_slots(board, partials, slots, sources, control, settings):
        thread = cuda.threadIdx.x
        values = cuda.local.array(SLOTS_IN_FLIGHT, np.float64)
        ranges = settings + load_word(settings + RANGES_AT * WORD) * WORD
        for r in range(load_word(settings + RANGES * WORD)):
            total = 0.0
            j = load_word(ranges + 2 * r * WORD) + thread
            end = load_word(ranges + (2 * r + 1) * WORD)
            while j < end:
                for n in range(SLOTS_IN_FLIGHT):
                    values[n] = 0.0
                for source in range(sources):
                    at = partials + (source * slots + j) * WORD
                    for n in range(SLOTS_IN_FLIGHT):
                        if j + n * SUM_LANES < end:
                            values[n] += load_fresh(at + n * SUM_LANES * WORD)
                for n in range(SLOTS_IN_FLIGHT):
                    total += values[n]
                j += SLOTS_IN_FLIGHT * SUM_LANES
            board[thread] = total
            step = 1
            while step < SUM_LANES:
                cuda.syncthreads()
                if thread % (2 * step) == 0:
                    board[thread] += board[thread + step]
                step *= 2
            if thread == 0:
                store_number(control + (NORMS + r) * WORD, board[0])
            # The board is used again.
            cuda.syncthreads()

    return sum_slots


def _by_address(target: Target) -> SimpleNamespace:
    """What `decide` and `advance` ask for."""
    load_double, load_single, load_half, load_bfloat = (
        target.load(one, FLOAT64) for one in (FLOAT64, FLOAT32, FLOAT16, BFLOAT16)
    )

    @inlined
    def load_format(address, code):
        number = 0.0
        if code == FLOAT64_CODE:
            number = load_double(address)
        elif code == FLOAT32_CODE:
            number = load_single(address)
        elif code == FLOAT16_CODE:
            number = load_half(address)
        elif code == BFLOAT16_CODE:
            number = load_bfloat(address)
        return number

    return SimpleNamespace(
        load_word=target.load_word,
        store_word=target.store_word,
        load_number=load_double,
        store_number=target.store(FLOAT64, FLOAT64),
        load_single=load_single,
        store_single=target.store(FLOAT32, FLOAT64),
        load_format=load_format,
        sqrt=target.sqrt,
        mul=target.mul,
    )


def _make_fill(rule: Rule, target: Target) -> Any:
    """The coefficients of a rule; see `gpu_adam.kernels.rules.rule.coefficients`."""
    mul, sqrt = target.mul, target.sqrt

    @inlined
    def narrow(x, wide):
        return x if wide else np.float64(np.float32(x))

    raised = inlined(power(mul))
    own = inlined(rule.coefficients(mul, sqrt, narrow, raised))
    return inlined(coefficients(mul, narrow, raised, own))
