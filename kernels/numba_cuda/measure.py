"""The first stage of the prologue in Numba CUDA: the sum of squares of each leaf.

``LEAF_THREADS`` threads sum a leaf. The accumulators of a thread are those of whole vectors of 16 bytes, one vector as far behind the other
as the vectors of all these threads reach; so neighbours are added within a thread first, then across threads, then again within a thread.
Across threads they go through shared memory and not by shuffles, which the simulator lacks, and which would save a time that does not show
beside that of the loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import cuda

from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FORMATS

from .. import table
from ..abi import (
    FIRST_LEAF_ROW,
    FORMAT_ROW,
    LEAF,
    LEAF_LANES,
    LEAF_THREADS,
    MEASURE_WALK_WORDS,
    POINTER_ROW,
    PROLOGUE_THREADS,
    SIZE_ROW,
    SLOT_ROW,
    STRIDED,
    VECTOR_BYTES,
    WORD,
)
from .target import Target, inlined
from .walk import make_unravel

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format

OWN = LEAF_LANES // LEAF_THREADS
"""Accumulators of a thread."""
COLUMNS = OWN * FLOAT64.itemsize // VECTOR_BYTES
"""Sums that a thread is left with, at most, once neighbours within 16 bytes are added."""
IN_FLIGHT = 8
"""Accesses of 16 bytes that a thread begins before it uses the first."""

_LEAVES = PROLOGUE_THREADS // LEAF_THREADS
BOARD = COLUMNS * PROLOGUE_THREADS
"""Numbers of shared memory."""
FLOAT64_CODE, FLOAT32_CODE, FLOAT16_CODE, BFLOAT16_CODE = (
    FORMATS.index(one) for one in (FLOAT64, FLOAT32, FLOAT16, BFLOAT16)
)
"""The formats as a table has them."""

assert COLUMNS == 4, "the sums below are written out for so many"


def make_measure(target: Target) -> Any:
    """The first stage, ``(board, words, segments, leaves, partials)``: the sums of the leaves that are the block's."""
    load_word, store_number = target.load_word, target.store(FLOAT64, FLOAT64)
    add_vectors, add_elements = _make_add_vectors(target), _make_add_elements(target)
    leaf_segments = inlined(table.leaf_segments)

    @inlined
    def measure(board, words, segments, leaves, partials):
        thread = cuda.threadIdx.x
        lane = thread % LEAF_THREADS
        leaf = cuda.blockIdx.x * _LEAVES + thread // LEAF_THREADS
        squares = cuda.local.array(OWN, np.float64)
        for k in range(OWN):
            squares[k] = 0.0
        slot = 0
        if leaf < leaves:
            places = words + leaf_segments(segments) * WORD
            segment = load_word(places + leaf * WORD)
            column, next_row = words + segment * WORD, segments * WORD
            pointer = load_word(column + POINTER_ROW * next_row)
            number = leaf - load_word(column + FIRST_LEAF_ROW * next_row)
            begin = number * LEAF
            end = min(begin + LEAF, load_word(column + SIZE_ROW * next_row))
            slot = load_word(column + SLOT_ROW * next_row) + number
            code = load_word(column + FORMAT_ROW * next_row)
            walk = 0
            if code >= STRIDED:
                walk = places + (leaves + segment * MEASURE_WALK_WORDS) * WORD
                code -= STRIDED
            per_vector = 8
            if code == FLOAT64_CODE:
                per_vector = 2
            if code == FLOAT32_CODE:
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
        if code == FLOAT32_CODE:
            add32(pointer, begin, end, lane, squares)
        elif code == BFLOAT16_CODE:
            add_b16(pointer, begin, end, lane, squares)
        elif code == FLOAT16_CODE:
            add16(pointer, begin, end, lane, squares)
        elif code == FLOAT64_CODE:
            add64(pointer, begin, end, lane, squares)

    return add_vectors


def _make_add_vectors_of(format: Format, target: Target) -> Any:
    itemsize, per_vector = format.itemsize, VECTOR_BYTES // format.itemsize
    # Two vectors of a thread lie as far apart as the vectors of all threads of the leaf reach, and two rows LEAF_LANES elements.
    apart, columns, words = LEAF_THREADS * per_vector, OWN // per_vector, VECTOR_BYTES // 4
    in_flight, reach = IN_FLIGHT * words, IN_FLIGHT // columns * LEAF_LANES
    fma, load_packed, element = target.fma, target.load_packed, target.element(format, FLOAT64)

    @inlined
    def add_vectors_of(pointer, begin, end, lane, squares):
        packed = cuda.local.array(in_flight, np.int32)
        i = begin + lane * per_vector
        while i < end:
            for n in range(IN_FLIGHT):
                k = i + (n // columns) * LEAF_LANES + (n % columns) * apart
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
    fma, load_word, unravel = target.fma, target.load_word, make_unravel(1, OWN, target)
    load64, load32, load16, load_b16 = (target.load(one, FLOAT64) for one in (FLOAT64, FLOAT32, FLOAT16, BFLOAT16))

    @inlined
    def add_elements(pointer, code, per_vector, begin, end, lane, walk, squares):
        values = cuda.local.array(OWN, np.float64)
        places = cuda.local.array(OWN, np.int64)
        rest = cuda.local.array(OWN, np.int64)
        inside = cuda.local.array(OWN, np.bool_)
        itemsize = VECTOR_BYTES // per_vector
        i = begin - begin % LEAF_LANES + lane * per_vector
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
                unravel(walk, load_word(walk), rest, places, places)
            for n in range(OWN):
                at = pointer + places[n] * itemsize
                if inside[n]:
                    if code == FLOAT32_CODE:
                        values[n] = load32(at)
                    elif code == BFLOAT16_CODE:
                        values[n] = load_b16(at)
                    elif code == FLOAT16_CODE:
                        values[n] = load16(at)
                    elif code == FLOAT64_CODE:
                        values[n] = load64(at)
            for n in range(OWN):
                squares[n] = fma(values[n], values[n], squares[n])
            i += LEAF_LANES

    return add_elements
