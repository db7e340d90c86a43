"""Step counts in a device's memory that plans share, so that graphs of one and steps of another go by the same ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..device import Device
from ..engines import Engine
from ..kernels.abi import WORD

_LEAST = 64
"""Cohorts that there is room for: groups that are added later go on where these end."""

Members = Sequence[tuple[int, ...]]
"""For each cohort the numbers of its parameters."""


class SharedCounts:
    """A word for each cohort.

    Attributes:
        memory: Where they lie.
        seen: The counts as the host has last read or written them.
        is_captured: Whether a caller's graph may count there at any time.
    """

    def __init__(self, engine: Engine, device: Device, cohorts: int) -> None:
        self._engine = engine
        self._members: list[tuple[int, ...]] = []
        self.memory = engine.allocate(device, max(_LEAST, cohorts) * WORD)
        self.seen: NDArray[np.int64] = np.zeros(0, np.int64)
        self.is_captured = False

    def fits(self, members: Members) -> bool:
        """Whether the cohorts are these as far as both go, and there is room for all."""
        return len(members) * WORD <= self.memory.nbytes and all(
            one == other for one, other in zip(self._members, members, strict=False)
        )

    def take(self, members: Members, counts: NDArray[np.int64]) -> None:
        """Be these cohorts' as well, whose program writes their counts here."""
        known = len(self._members)
        self._members.extend(members[known:])
        self.seen = np.concatenate((self.seen, counts[known:]))

    def collect(self, steps: NDArray[np.int64]) -> bool:
        """Add the steps that were made since the last look to the parameters' counts, for which it waits; whether there were any."""
        counts = self._engine.download(self.memory, 0, len(self._members) * WORD).view(np.int64)
        made, self.seen = counts - self.seen, counts
        for members, count in zip(self._members, made.tolist(), strict=True):
            steps[list(members)] += count
        return bool(made.any())

    def tell(self, steps: NDArray[np.int64]) -> None:
        """Go on from the parameters' counts: where those of a cohort have come to differ, from the highest."""
        counts = np.array([steps[list(members)].max() for members in self._members], np.int64)
        if not np.array_equal(counts, self.seen):
            self._engine.upload(self.memory, 0, counts)
            self.seen = counts
