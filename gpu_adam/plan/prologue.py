"""The launch that a step begins with where the host does not know its coefficients, as a value.

It measures the gradients where a norm is asked for, and computes every row of coefficients (`gpu_adam.kernels.prologue` says how, and in
which order the squares are summed). Where gradients are measured, a *leaf* is the stretch of one gradient that is summed by itself, and
a *slot* its place among all leaves of the optimizer, on whichever device each is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..device import Device
from ..kernels.abi import HEADER_WORDS, LEAF_THREADS, PROLOGUE_THREADS, RECORD_WORDS, SCHEDULED_WORDS
from ..kernels.rules.rule import Rule
from .tables import MeasureTable

WINDOW_ENTRIES = 64
"""Steps of a learning rate's schedule that a window has room for: more than the host may be ahead of the device."""


def record_at(index: int) -> int:
    """Where in the settings a cohort's record begins, after the header; after the last one begin the ranges of slots; in words."""
    return HEADER_WORDS + RECORD_WORDS * index


def windows_at(cohorts: int, ranges: int) -> int:
    """Where in the settings the windows begin, after the ranges; in words."""
    return record_at(cohorts) + 2 * ranges


def settings_words(cohorts: int, ranges: int) -> int:
    """Words of the settings for so many cohorts and ranges of slots."""
    return windows_at(cohorts, ranges) + WINDOW_ENTRIES * SCHEDULED_WORDS * cohorts


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
