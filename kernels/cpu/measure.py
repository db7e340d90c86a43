"""The first stage of the prologue on the CPU: a kernel that measures leaves; `measure.cuh` is its twin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numba import int64

from gpu_adam.dtypes import FORMATS

from .. import table
from ..abi import (
    FIRST_LEAF_ROW,
    FORMAT_ROW,
    LEAF,
    LEAF_LANES,
    MEASURE_WALK_WORDS,
    POINTER_ROW,
    SIZE_ROW,
    SLOT_ROW,
    STRIDED,
    WALK_SIZES,
    WALK_STRIDES,
    WORD,
)
from .float_mode import enter_ieee_mode, leave_ieee_mode
from .intrinsics import array_at, load_at, stack, store_at
from .squares import sum_of_squares
from .target import STORAGE, entry, jit
from .walk import make_unravel

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format

MEASURE = (int64[::1], *(int64,) * 5)
"""The argument types of the kernel."""

_LEAF_BYTES = LEAF * WORD

_leaf_segments = jit("table")(table.leaf_segments)


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
        leaves_at = _leaf_segments(segments)
        for k in range(first, last):
            s = words[leaves_at + k]
            pointer = words[POINTER_ROW * segments + s]
            own = k - words[FIRST_LEAF_ROW * segments + s]
            start = own * LEAF
            count = min(words[SIZE_ROW * segments + s] - start, LEAF)
            format = words[FORMAT_ROW * segments + s]
            walk = -1
            if format >= STRIDED:
                format -= STRIDED
                walk = leaves_at + leaves + s * MEASURE_WALK_WORDS
            if format == 0:
                total = float64(words, pointer, start, count, walk, room)
            elif format == 1:
                total = float32(words, pointer, start, count, walk, room)
            elif format == 2:
                total = float16(words, pointer, start, count, walk, room)
            else:
                total = bfloat16(words, pointer, start, count, walk, room)
            store_at(partials + (words[SLOT_ROW * segments + s] + own) * WORD, total)
        leave_ieee_mode(before)

    return measure


def _make_leaf(name: str, format: Format) -> Any:
    """``(words, pointer, start, count, walk, room)``: the sum of squares of ``count`` elements from ``start`` of a gradient on.

    ``walk`` is where in ``words`` its walk begins, -1 if there is none; ``room`` the address of memory for a leaf.
    """
    squares, unravel = sum_of_squares(format), make_unravel(1)
    stored, itemsize = STORAGE[format.name], format.itemsize

    @jit(name)
    def gather(words, pointer, start, count, walk, room):
        """Copy a strided stretch to where it lies one element after the other."""
        inner = words[walk] - 1
        length = words[walk + WALK_SIZES + inner]
        step = words[walk + WALK_STRIDES + inner] * itemsize
        k = start
        inside = k % length
        while k < start + count:
            # One run along the innermost dimension; its first element's place gives the address.
            stop = min(start + count, k + length - inside)
            place, _ = unravel(words, walk, inner, k // length)
            at = pointer + place * itemsize + inside * step
            for j in range(k - start, stop - start):
                store_at(room + j * itemsize, load_at(at, stored))
                at += step
            k, inside = stop, 0

    @jit(name)
    def leaf(words, pointer, start, count, walk, room):
        at = pointer + start * itemsize
        if walk >= 0:
            gather(words, pointer, start, count, walk, room)
            at = room
        rows = (count + LEAF_LANES - 1) // LEAF_LANES
        last = at + (rows - 1) * LEAF_LANES * itemsize
        if count % LEAF_LANES:
            # Filled up with zeros, which add nothing.
            full = array_at(room + (rows - 1) * LEAF_LANES * itemsize, LEAF_LANES, stored)
            part = array_at(last, LEAF_LANES, stored)
            cut = count % LEAF_LANES
            for j in range(cut):
                full[j] = part[j]
            for j in range(cut, LEAF_LANES):
                full[j] = 0
            last = room + (rows - 1) * LEAF_LANES * itemsize
        return squares(at, rows, last)

    return leaf
