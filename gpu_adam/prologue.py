"""The launch that a step begins with where the host does not know its coefficients, as a value.

It measures the gradients where a norm is asked for, and computes every row of coefficients (`gpu_adam.kernels.prologue` says how, and in
which order the squares are summed). Where gradients are measured, a *leaf* is the stretch of one gradient that is summed by itself, and
a *slot* its place among all leaves of the optimizer, on whichever device each is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .formats import FORMATS, Format
from .kernels.prologue import LEAF
from .kernels.rules import Rule
from .layout import MAX_DIMS, Device, Walk, row_major

PROLOGUE_THREADS = 256
"""Threads of a block; as many as the sum over all slots has accumulators."""

LEAF_THREADS = 16
"""Threads that sum a leaf together: each has 8 of its accumulators, and a vector of every format fits."""

MEASURE_WALK_WORDS = 1 + 2 * MAX_DIMS
"""Words that describe the walk of a strided gradient: its dimensions, then sizes and strides."""

STRIDED = len(FORMATS)
"""What is added to the format of a gradient whose elements do not lie one after the other."""


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
        words = 5 * segments + leaves
        self.words: NDArray[np.int64] = np.zeros(
            words + (MEASURE_WALK_WORDS * segments if any_strided else 0), np.int64
        )
        parts = self.words[: 5 * segments].reshape(5, segments)
        self.pointers, self.sizes, self.firsts, self.slots, self.formats = parts
        self.leaf_segments = self.words[5 * segments : words]
        self.pointers[:] = [one.pointer for one in gradients]
        self.sizes[:] = [one.size for one in gradients]
        self.firsts[:] = np.cumsum(counts) - counts
        self.slots[:] = [one.slot for one in gradients]
        self.formats[:] = [FORMATS.index(one.format) + STRIDED * one.strided for one in gradients]
        self.leaf_segments[:] = np.repeat(np.arange(segments), counts)
        for words_of, one in zip(self.words[words:].reshape(-1, MEASURE_WALK_WORDS), gradients, strict=False):
            dims = len(one.walk.shape)
            words_of[0] = dims
            words_of[1 : 1 + dims] = one.walk.shape
            words_of[1 + MAX_DIMS : 1 + MAX_DIMS + dims] = one.walk.grad


@dataclass(frozen=True)
class Prologue:
    """The launch.

    Attributes:
        rule: A rule, whose coefficients it computes.
        device: Where.
        table: The gradients that it measures on this device; ``None`` where none are.
        slots: Leaves of the optimizer, on all devices; 0 where nothing is measured.
        sources: Devices whose leaves' sums are added up; 1 if all parameters are on this one.
        cohorts: Step counts that it keeps.
        settings_words: The size of the settings.
        elements: Elements that it reads.
        bytes_read: Bytes of them.
    """

    rule: Rule
    device: Device
    table: MeasureTable | None = field(repr=False, compare=False)
    slots: int
    sources: int
    cohorts: int
    settings_words: int
    elements: int
    bytes_read: int

    @property
    def grid(self) -> int:
        """Blocks: each has threads for some leaves; one where there are none."""
        leaves = 0 if self.table is None else self.table.leaves
        return max(1, -(-leaves * LEAF_THREADS // PROLOGUE_THREADS))

    def __str__(self) -> str:
        grid = "" if self.device.kind == "cpu" else f"grid {self.grid:,} x {PROLOGUE_THREADS}, "
        what = "coefficients"
        if self.table is not None:
            what = f"norm of {self.table.segments:,} gradients, {self.elements:,} elements, and coefficients"
        return f"prologue on {self.device}: {what}, {grid}reads {self.bytes_read:,} B"
