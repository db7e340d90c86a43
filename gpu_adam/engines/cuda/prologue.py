"""A prologue on its device: its memory at fixed addresses, its calls, and the exchange of sums between devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from ...dtypes import FLOAT32, FLOAT64
from ...kernels.abi import PROLOGUE_THREADS, ROW_WORDS, WORD
from ...plan.prologue import Prologue
from .. import Engine, Memory, capture_errors
from .binding import Binding, Call
from .counts import StepCounts
from .staging import Event, Staging


class GpuPrologue:
    """What a program with a prologue has beside its updates.

    Attributes:
        plan: The prologue.
        coefficients: For each working format's name the rows that it computes.
        call: What a run begins with. Where gradients lie on one device it measures, decides and computes the coefficients; where they lie
            on several it leaves out the first, which `measure` and `gather` have done.
        counts: The cohorts' step counts.
        table: Where the table of gradients lies.
        settings: Where the settings lie.
    """

    def __init__(
        self,
        engine: Engine,
        cuda: Binding,
        staging: Staging,
        function: Any,
        plan: Prologue,
        control: Memory,
        counts: NDArray[np.int64],
        counts_memory: Memory | None = None,
    ) -> None:
        self.plan = plan
        self._cuda = cuda
        device = plan.device
        words = np.zeros(0, np.int64) if plan.table is None else plan.table.words
        sizes = (len(words), plan.sources * plan.slots, plan.settings_words)
        self._memories = [engine.allocate(device, size * WORD) for size in sizes]
        self._control = control
        self.table, self._partials, self.settings = (memory.address for memory in self._memories)
        engine.upload(self._memories[0], 0, words)
        self.counts = StepCounts(engine, cuda, device, staging, counts, counts_memory)
        # The rows of all cohorts, those of other devices' parameters and of empty ones too.
        self.coefficients = {
            working.name: engine.allocate(device, plan.cohorts * ROW_WORDS * working.itemsize)
            for working in (FLOAT32, FLOAT64)
        }

        def call(grid: int, leaves: int, finish: int) -> Call:
            segments = 0 if plan.table is None else plan.table.segments
            rows = (self.coefficients[working.name].address for working in (FLOAT32, FLOAT64))
            sums = (self._partials, plan.slots, plan.sources)
            words = (control.address, self.settings, self.counts.address)
            arguments = (self.table, segments, leaves, *sums, *words, *rows, finish)
            return Call(function, grid, PROLOGUE_THREADS, arguments)

        leaves = 0 if plan.table is None else plan.table.leaves
        self.call = call(plan.grid, leaves, 1) if plan.sources == 1 else call(1, 0, 1)
        self._measure = call(plan.grid, leaves, 0)
        self._source_bytes = plan.slots * WORD
        # Of this device's sums: when they are there, and who is still reading those of the last step.
        self._measured, self._gathered = cuda.event(), cuda.event()
        self._readers: list[Event] = []
        # Freeing memory waits for its own device only. When the process ends nothing is freed.
        finalize(self, _wait, cuda, device.index, self._readers).atexit = False

    def require_alone(self) -> None:
        """Raise unless all gradients are on this device."""
        if self.plan.sources > 1:
            raise capture_errors.several_devices()

    def measure(self, stream: int) -> None:
        """Queue the first stage alone, after the other devices have taken the last step's sums."""
        for event in self._readers:
            event.hold(stream)
        self._readers.clear()
        self._cuda.launch(self._measure, stream)
        self._measured.record(stream)

    def gather(self, others: Sequence[GpuPrologue], stream: int) -> None:
        """Queue the copies of the other devices' sums, after these have measured."""
        if len(others) != self.plan.sources - 1:
            raise ValueError(f"the sums of {len(others)} other devices: must be those of {self.plan.sources - 1}")
        for index, other in enumerate(others, start=1):
            other._measured.hold(stream)
            to = self._partials + index * self._source_bytes
            self._cuda.copy(to, other._partials, self._source_bytes, stream)
        self._gathered.record(stream)
        for other in others:
            other._readers.append(self._gathered)


def _wait(cuda: Binding, device: int, events: Sequence[Event]) -> None:
    if events:
        with cuda.on(device):
            for event in events:
                event.synchronize()
