"""The launch that a step begins with where the host does not know its coefficients, as a value.

It measures the gradients where a norm is asked for, and computes every row of coefficients (`gpu_adam.kernels.prologue` says how, and in
which order the squares are summed). Where gradients are measured, a *leaf* is the stretch of one gradient that is summed by itself, and
a *slot* its place among all leaves of the optimizer, on whichever device each is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ..device import Device
from ..kernels.abi import COHORT_WORDS, HEADER_WORDS, LEAF_THREADS, PROLOGUE_THREADS, RECORD_WORDS, SCHEDULED_WORDS
from ..kernels.rules.rule import Rule
from .tables import MeasureTable

WINDOW_ENTRIES = 64
"""Steps of a learning rate's schedule that a window has room for: more than the host may be ahead of the device."""


WINDOW_WORDS = WINDOW_ENTRIES * SCHEDULED_WORDS


@dataclass(frozen=True)
class SettingsLayout:
    """Where in the settings each part begins, in words: after the header the cohorts, the records, the ranges of slots, the windows.

    Attributes:
        cohorts, records, ranges, windows: How many there is room for.
    """

    cohorts: int
    records: int
    ranges: int
    windows: int

    @property
    def records_at(self) -> int:
        """The first record."""
        return HEADER_WORDS + COHORT_WORDS * self.cohorts

    @property
    def ranges_at(self) -> int:
        """The first range."""
        return self.records_at + RECORD_WORDS * self.records

    @property
    def windows_at(self) -> int:
        """The first window."""
        return self.ranges_at + 2 * self.ranges

    @property
    def words(self) -> int:
        """All words."""
        return self.windows_at + WINDOW_WORDS * self.windows


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
        resting: How many gradients of the table are absent.
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
    resting: int = 0

    @property
    def grid(self) -> int:
        """Blocks: each has threads for some leaves; one where there are none."""
        leaves = 0 if self.table is None else self.table.leaves
        return max(1, -(-leaves * LEAF_THREADS // PROLOGUE_THREADS))

    def current(self) -> Prologue:
        """The same with what its table says now of the gradients that are there."""
        if self.table is None:
            return self
        sizes, itemsizes = self.table.sizes, self.table.itemsizes
        return replace(
            self,
            elements=int(sizes.sum()),
            bytes_read=int(sizes @ itemsizes),
            resting=int(np.count_nonzero(sizes == 0)),
        )

    def __str__(self) -> str:
        grid = "" if self.device.kind == "cpu" else f"grid {self.grid:,} x {PROLOGUE_THREADS}, "
        what = "coefficients"
        if self.table is not None:
            count = self.table.segments - self.resting
            what = f"norm of {count:,} gradients, {self.elements:,} elements, and coefficients"
        return f"prologue on {self.device}: {what}, {grid}reads {self.bytes_read:,} B"
