"""The Numba CUDA kernel that a step begins with: its three stages, and the order of its sums, are stated in `prologue.py`.

Its twin in CUDA C++ is `prologue.cu`. ``LEAF_THREADS`` threads sum a leaf. The accumulators of a thread are those of whole vectors of 16
bytes, one vector as far behind the other as the vectors of all these threads reach; so neighbours are added within a thread first, then
across threads, then again within a thread. Across threads they go through shared memory and not by shuffles, which the simulator
lacks, and which would save a time that does not show beside that of the loads. The block that is done last adds up all leaves and
computes the coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import cuda

from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FORMATS
from gpu_adam.kernels.abi import LEAF_THREADS, MAX_DIMS, MEASURE_WALK_WORDS, PROLOGUE_THREADS, STRIDED, VECTOR_BYTES

from ..abi import COHORTS, LEAF, NORMS, RANGES, RANGES_AT, RECORD_WORDS, ROW_WORDS, SUM_LANES, TICKET, WORD
from ..abi import LEAF_LANES as LANES
from ..prologue import advance, decide
from ..rules.rule import Rule, coefficients, power
from .target import Target, device_target, inlined

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format

OWN = LANES // LEAF_THREADS
"""Accumulators of a thread."""
COLUMNS = OWN * FLOAT64.itemsize // VECTOR_BYTES
"""Sums that a thread is left with, at most, once neighbours within 16 bytes are added."""
IN_FLIGHT = 8
"""Accesses of 16 bytes that a thread begins before it uses the first."""
SLOTS_IN_FLIGHT = 16
"""Partial sums that a thread of the last block begins to load before it uses the first."""

_LEAVES = PROLOGUE_THREADS // LEAF_THREADS
_BOARD = COLUMNS * PROLOGUE_THREADS
_FLOAT64, _FLOAT32, _FLOAT16, _BFLOAT16 = (FORMATS.index(one) for one in (FLOAT64, FLOAT32, FLOAT16, BFLOAT16))
assert (PROLOGUE_THREADS, COLUMNS) == (SUM_LANES, 4), "the sums below are written out for these"


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
    measure, sum_slots = _make_measure(target), _make_sum_slots(target)
    load_word, store_word, count_in = target.load_word, target.store_word, target.count_in
    on = _by_address(target)
    decided, advanced = inlined(decide(on)), inlined(advance(on, _make_fill(rule, target)))

    def prologue(
        table, segments, leaves, partials, slots, sources, control, settings, counts, singles, doubles, finish
    ):
        board = cuda.shared.array(_BOARD, np.float64)
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


def _make_measure(target: Target) -> Any:
    """The first stage, ``(board, table, segments, leaves, partials)``: the sums of the leaves that are the block's."""
    load_word, store_number = target.load_word, target.store(FLOAT64, FLOAT64)
    add_vectors, add_elements = _make_add_vectors(target), _make_add_elements(target)

    @inlined
    def measure(board, table, segments, leaves, partials):
        thread = cuda.threadIdx.x
        lane = thread % LEAF_THREADS
        leaf = cuda.blockIdx.x * _LEAVES + thread // LEAF_THREADS
        squares = cuda.local.array(OWN, np.float64)
        for k in range(OWN):
            squares[k] = 0.0
        slot = 0
        if leaf < leaves:
            leaf_segments = table + 5 * segments * WORD
            segment = load_word(leaf_segments + leaf * WORD)
            # The segment's column: its pointer, its size, its first leaf, that one's slot, its format.
            column, next_row = table + segment * WORD, segments * WORD
            pointer = load_word(column)
            number = leaf - load_word(column + 2 * next_row)
            begin = number * LEAF
            end = min(begin + LEAF, load_word(column + next_row))
            slot = load_word(column + 3 * next_row) + number
            code = load_word(column + 4 * next_row)
            walk = 0
            if code >= STRIDED:
                walk = leaf_segments + (leaves + segment * MEASURE_WALK_WORDS) * WORD
                code -= STRIDED
            per_vector = 8
            if code == _FLOAT64:
                per_vector = 2
            if code == _FLOAT32:
                per_vector = 4
            # Up to here vectors are loaded, from here on single elements.
            whole = begin
            if walk == 0 and pointer % VECTOR_BYTES == 0:
                whole = end - end % per_vector
            add_vectors(pointer, code, begin, whole, lane, squares)
            add_elements(pointer, code, per_vector, whole, end, lane, walk, squares)
            for k in range(0, OWN, 2):
                squares[k] += squares[k + 1]
            if per_vector > 2:
                for k in range(0, OWN, 4):
                    squares[k] += squares[k + 2]
                    squares[k + 2] = 0.0
            if per_vector > 4:
                squares[0] += squares[4]
                squares[4] = 0.0
        for k in range(COLUMNS):
            board[k * PROLOGUE_THREADS + thread] = squares[2 * k]
        step = 1
        while step < LEAF_THREADS:
            cuda.syncthreads()
            if lane % (2 * step) == 0:
                for k in range(COLUMNS):
                    at = k * PROLOGUE_THREADS + thread
                    board[at] += board[at + step]
            step *= 2
        if lane == 0 and leaf < leaves:
            # Columns that a format does not have are 0, and change no sum of squares.
            low = board[thread] + board[PROLOGUE_THREADS + thread]
            high = board[2 * PROLOGUE_THREADS + thread] + board[3 * PROLOGUE_THREADS + thread]
            store_number(partials + slot * WORD, low + high)

    return measure


def _make_add_vectors(target: Target) -> Any:
    """``(pointer, code, begin, end, lane, squares)``: a thread's elements in ``[begin, end)``, whole vectors at multiples of 16 bytes."""
    add64, add32, add16, add_b16 = (_make_add_vectors_of(one, target) for one in (FLOAT64, FLOAT32, FLOAT16, BFLOAT16))

    @inlined
    def add_vectors(pointer, code, begin, end, lane, squares):
        if code == _FLOAT32:
            add32(pointer, begin, end, lane, squares)
        elif code == _BFLOAT16:
            add_b16(pointer, begin, end, lane, squares)
        elif code == _FLOAT16:
            add16(pointer, begin, end, lane, squares)
        elif code == _FLOAT64:
            add64(pointer, begin, end, lane, squares)

    return add_vectors


def _make_add_vectors_of(format: Format, target: Target) -> Any:
    itemsize, per_vector = format.itemsize, VECTOR_BYTES // format.itemsize
    # Two vectors of a thread lie as far apart as the vectors of all threads of the leaf reach, and two rows LANES elements.
    apart, columns, words = LEAF_THREADS * per_vector, OWN // per_vector, VECTOR_BYTES // 4
    in_flight, reach = IN_FLIGHT * words, IN_FLIGHT // columns * LANES
    fma, load_packed, element = target.fma, target.load_packed, target.element(format, FLOAT64)

    @inlined
    def add_vectors_of(pointer, begin, end, lane, squares):
        packed = cuda.local.array(in_flight, np.int32)
        i = begin + lane * per_vector
        while i < end:
            for n in range(IN_FLIGHT):
                k = i + (n // columns) * LANES + (n % columns) * apart
                if k < end:
                    load_packed(pointer + k * itemsize, packed, n * words)
                else:
                    for word in range(n * words, (n + 1) * words):
                        packed[word] = 0
            for n in range(IN_FLIGHT):
                for k in range(per_vector):
                    x = element(packed, n * words, k)
                    own = (n % columns) * per_vector + k
                    squares[own] = fma(x, x, squares[own])
            i += reach

    return add_vectors_of


def _make_add_elements(target: Target) -> Any:
    """``(pointer, code, per_vector, begin, end, lane, walk, squares)``: a thread's elements in ``[begin, end)``, one by one.

    They lie one after the other or, if ``walk`` is not 0, by the strides that lie there. One text for all formats: what comes here are
    tails, and gradients that are not aligned.
    """
    fma, load_word = target.fma, target.load_word
    load64, load32, load16, load_b16 = (target.load(one, FLOAT64) for one in (FLOAT64, FLOAT32, FLOAT16, BFLOAT16))

    @inlined
    def add_elements(pointer, code, per_vector, begin, end, lane, walk, squares):
        values = cuda.local.array(OWN, np.float64)
        places = cuda.local.array(OWN, np.int64)
        rest = cuda.local.array(OWN, np.int64)
        inside = cuda.local.array(OWN, np.bool_)
        itemsize = VECTOR_BYTES // per_vector
        i = begin - begin % LANES + lane * per_vector
        while i - lane * per_vector < end:
            for n in range(OWN):
                k = i + (n // per_vector) * (LEAF_THREADS * per_vector) + n % per_vector
                inside[n] = begin <= k and k < end
                places[n] = k
                values[n] = 0.0
            if walk != 0:
                for n in range(OWN):
                    rest[n] = places[n]
                    places[n] = 0
                for d in range(load_word(walk) - 1, -1, -1):
                    size = load_word(walk + (1 + d) * WORD)
                    stride = load_word(walk + (1 + MAX_DIMS + d) * WORD)
                    for n in range(OWN):
                        outer = rest[n] // size
                        places[n] += (rest[n] - outer * size) * stride
                        rest[n] = outer
            for n in range(OWN):
                at = pointer + places[n] * itemsize
                if inside[n]:
                    if code == _FLOAT32:
                        values[n] = load32(at)
                    elif code == _BFLOAT16:
                        values[n] = load_b16(at)
                    elif code == _FLOAT16:
                        values[n] = load16(at)
                    elif code == _FLOAT64:
                        values[n] = load64(at)
            for n in range(OWN):
                squares[n] = fma(values[n], values[n], squares[n])
            i += LANES

    return add_elements


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
        if code == _FLOAT64:
            number = load_double(address)
        elif code == _FLOAT32:
            number = load_single(address)
        elif code == _FLOAT16:
            number = load_half(address)
        elif code == _BFLOAT16:
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
