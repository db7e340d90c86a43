"""The step counts that a prologue keeps on the device, and what the host knows of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...device import Device
from .. import Engine, Memory
from .binding import Binding
from .staging import RING, Staging


class StepCounts:
    """The cohorts' counts in a device's memory.

    The host follows them from afar: before a step it has them copied to pinned memory, a place for each entry of the staging ring, and
    reads a place when the ring has come round to it, since the device is then past that step.
    """

    def __init__(
        self,
        engine: Engine,
        cuda: Binding,
        device: Device,
        staging: Staging,
        counts: NDArray[np.int64],
        memory: Memory | None = None,
    ) -> None:
        """Write the first counts, into memory of others with which they are shared or else into new memory."""
        self._engine = engine
        self._cuda = cuda
        self._staging = staging
        self._memory = memory or engine.allocate(device, counts.nbytes)
        engine.upload(self._memory, 0, np.ascontiguousarray(counts))
        self._places = cuda.pinned(RING * counts.nbytes)[: RING * counts.nbytes].view(np.int64).reshape(RING, -1)
        self._noted: list[tuple[int, int] | None] = [None] * RING
        self._runs = 0
        self._known, self._known_runs = counts.copy(), 0

    @property
    def address(self) -> int:
        """Where they are."""
        return self._memory.address

    def begin_run(self) -> None:
        """Say that a run begins, which may count a step or skip it."""
        self._runs += 1

    def note(self, stream: int) -> None:
        """Have them copied, as they are before the next run, in the order of the stream."""
        self._staging.follow(stream)
        self._take_up()
        entry = self._staging.turn % RING
        place = self._places[entry]
        self._cuda.copy(place.ctypes.data, self.address, place.nbytes, stream)
        self._noted[entry] = (self._staging.turn, self._runs)

    def recent(self) -> tuple[NDArray[np.int64], int]:
        """The latest that are known without waiting, and how many runs have begun since."""
        self._take_up()
        return self._known.copy(), self._runs - self._known_runs

    def read(self) -> NDArray[np.int64]:
        """The counts after all runs so far, for which it waits."""
        counts = self._engine.download(self._memory, 0, self._known.nbytes).view(np.int64)
        self._known, self._known_runs = counts, self._runs
        return counts.copy()

    def _take_up(self) -> None:
        """Look at the place whose entry the ring has come round to."""
        entry = self._staging.turn % RING
        noted = self._noted[entry]
        # A note of this very turn is still on its way; one of an earlier round may be older than what was read since.
        if noted is not None and noted[0] + RING <= self._staging.turn:
            self._noted[entry] = None
            if noted[1] >= self._known_runs:
                self._known, self._known_runs = self._places[entry].copy(), noted[1]
