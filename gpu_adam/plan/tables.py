"""The tables that kernels go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..dtypes import FORMATS, Format
from ..kernels.abi import (
    BEGIN_ROW,
    COEFFICIENTS_ROW,
    END_ROW,
    FIRST_LEAF_ROW,
    FORMAT_ROW,
    LEAF,
    MEASURE_ROWS,
    MEASURE_WALK_WORDS,
    POINTER_ROW,
    ROLES,
    SIZE_ROW,
    SLOT_ROW,
    STRIDED,
    TABLE_ROWS,
    WALK_SIZES,
    WALK_STRIDES,
    WALK_WORDS,
)
from ..kernels.table import chunk_segments, leaf_segments, walks
from ..strides import Walk, row_major


class Table:
    """The multi-tensor families' table: one int64 array, the same for all engines, with views that name its parts.

    For ``S`` segments and ``C`` chunks, in words: ``S`` pointers for each of ``ROLES``; ``S`` begins; ``S`` ends; ``S`` coefficient
    rows; ``C`` chunk segments; ``C`` chunk starts; and for the strided family ``S`` walks of ``WALK_WORDS``.

    Indices count from the last vector boundary at or before the segment's first element: an element ``i`` in ``[begin, end)`` of
    a stream lies at ``pointer + i·itemsize``, and a chunk covers ``[start, start + chunk) ∩ [begin, end)``.
    """

    def __init__(self, segments: int, chunks: int, *, strided: bool) -> None:
        self.segments = segments
        self.chunks = chunks
        at = walks(segments, chunks)
        self.words: NDArray[np.int64] = np.zeros(at + (WALK_WORDS * segments if strided else 0), np.int64)
        columns = self.words[: chunk_segments(segments)].reshape(TABLE_ROWS, segments)
        self.pointers = columns[: len(ROLES)]
        self.begins, self.ends, self.rows = columns[BEGIN_ROW], columns[END_ROW], columns[COEFFICIENTS_ROW]
        self.chunk_segments, self.chunk_starts = self.words[chunk_segments(segments) : at].reshape(2, chunks)
        self.walks = self.words[at:].reshape(-1, WALK_WORDS)

    def pointer_words(self, role: int) -> slice:
        """Where in ``words`` the pointers of one role lie."""
        return slice(role * self.segments, (role + 1) * self.segments)


@dataclass(frozen=True)
class Gradient:
    """One gradient to measure.

    Attributes:
        pointer: The address of its first element.
        size: Its elements.
        format: Their format.
        walk: The journey of its update.
        slot: Its first leaf's place among all leaves of the optimizer.
    """

    pointer: int
    size: int
    format: Format
    walk: Walk
    slot: int

    @property
    def strided(self) -> bool:
        """Whether it is to be reached through its strides."""
        return self.walk.shape != () and self.walk.grad != row_major(self.walk.shape)


def leaves_of(size: int) -> int:
    """The leaves of a tensor of so many elements.

    >>> leaves_of(1025)
    2
    """
    return -(-size // LEAF)


class MeasureTable:
    """Which gradients are measured: one int64 array, the same for all engines, with views that name its parts.

    For ``S`` gradients and ``K`` leaves, in words: ``S`` pointers; ``S`` sizes; ``S`` numbers of the gradient's first leaf among the ``K``
    of this table; ``S`` slots of it; ``S`` formats, by their place in `FORMATS`, ``STRIDED`` more for a strided gradient; the ``K``
    leaves' gradients; and, if any is strided, ``S`` walks of ``MEASURE_WALK_WORDS``. Empty gradients are left out.
    """

    def __init__(self, gradients: Sequence[Gradient]) -> None:
        counts = np.array([leaves_of(one.size) for one in gradients], np.int64)
        segments, leaves = len(gradients), int(counts.sum())
        self.segments = segments
        self.leaves = leaves
        any_strided = any(one.strided for one in gradients)
        at = leaf_segments(segments) + leaves
        self.words: NDArray[np.int64] = np.zeros(at + (MEASURE_WALK_WORDS * segments if any_strided else 0), np.int64)
        columns = self.words[: leaf_segments(segments)].reshape(MEASURE_ROWS, segments)
        self.pointers, self.sizes, self.firsts = columns[POINTER_ROW], columns[SIZE_ROW], columns[FIRST_LEAF_ROW]
        self.slots, self.formats = columns[SLOT_ROW], columns[FORMAT_ROW]
        self.leaf_segments = self.words[leaf_segments(segments) : at]
        self.pointers[:] = [one.pointer for one in gradients]
        self.sizes[:] = self._sizes = np.array([one.size for one in gradients], np.int64)
        self.firsts[:] = np.cumsum(counts) - counts
        self.slots[:] = [one.slot for one in gradients]
        self.formats[:] = [FORMATS.index(one.format) + STRIDED * one.strided for one in gradients]
        self.leaf_segments[:] = np.repeat(np.arange(segments), counts)
        for words, one in zip(self.words[at:].reshape(-1, MEASURE_WALK_WORDS), gradients, strict=False):
            dims = len(one.walk.shape)
            words[0] = dims
            words[WALK_SIZES:][:dims] = one.walk.shape
            words[WALK_STRIDES:][:dims] = one.walk.grad

    @property
    def itemsizes(self) -> NDArray[np.int64]:
        """Bytes of an element of each."""
        itemsizes: NDArray[np.int64] = np.array([format.itemsize for format in FORMATS], np.int64).take(
            self.formats % STRIDED
        )
        return itemsizes

    @property
    def measured(self) -> slice:
        """Where in ``words`` lies what `measure` changes."""
        return slice(SIZE_ROW * self.segments, (SLOT_ROW + 1) * self.segments)

    def measure(self, present: NDArray[np.bool_], slots: NDArray[np.int64]) -> None:
        """Measure some of the gradients from now on: the others have no elements then, and each of their leaves sums to 0.

        Args:
            present: Which ones.
            slots: The slots of the first leaf of each; the others' are none that are summed.
        """
        np.multiply(self._sizes, present, out=self.sizes)
        self.slots[:] = slots
