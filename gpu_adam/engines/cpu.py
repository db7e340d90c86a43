"""The CPU engine: Numba-compiled loops over the same launches and tables as the GPU engines, shared out to threads."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..device import Device
from ..dtypes import FLOAT32, FLOAT64
from ..kernels.abi import ROW_WORDS
from ..plan.launches import Launch
from ..plan.policy import CPU_POLICY, Policy
from ..plan.prologue import Prologue
from ..plan.tables import Table
from . import CoefficientRows, Memory, Replay, Stage, SumArguments, capture_errors
from .cpu_kernels import coalescing, compiled, finishing, measuring
from .threads import ThreadPool, thread_count

SERIAL = 1 << 17
"""Elements up to which one thread is faster than waking others."""

MEASURED_SERIAL = 4 * SERIAL
"""The same for elements that are only measured."""

_SLACK = 16
"""What part of a launch may rest before it is shared out to the threads anew."""

_ALIGNMENT = 256
"""Alignment of allocations, in bytes."""


@functools.cache
def engine() -> CpuEngine:
    """The CPU engine."""
    return CpuEngine()


class CpuEngine:
    """Works in host memory; see `gpu_adam.engines.Engine`."""

    name = "cpu"
    kind = "cpu"
    policy: Policy = CPU_POLICY

    def __init__(self) -> None:
        self.pool = ThreadPool(thread_count())

    def multiprocessors(self, device: Device) -> int:
        """Threads of a step."""
        return self.pool.count

    def allocate(self, device: Device, nbytes: int) -> Memory:
        """New memory, all zero bytes."""
        owner = np.zeros(nbytes + _ALIGNMENT, np.uint8)
        address = owner.ctypes.data
        return Memory(device, address + -address % _ALIGNMENT, nbytes, owner)

    def upload(self, memory: Memory, offset: int, data: NDArray[Any], stream: int | None = None) -> None:
        """Copy a contiguous host array into the memory."""
        ctypes.memmove(memory.address + offset, data.ctypes.data, data.nbytes)

    def download(self, memory: Memory, offset: int, nbytes: int, stream: int | None = None) -> NDArray[np.uint8]:
        """Copy bytes out of the memory."""
        out = np.empty(nbytes, np.uint8)
        ctypes.memmove(out.ctypes.data, memory.address + offset, nbytes)
        return out

    def coalesce(self, sums: SumArguments, stream: int | None = None) -> None:
        """Sum the rows of a gradient that have the same number."""
        # A copy, of which one thread does as much as of a sum.
        cuts = _cuts(sums.capacity, sums.capacity * sums.width, MEASURED_SERIAL, self.pool.count)
        kernel = coalescing(sums.values_format, sums.working)
        self.pool.run(kernel, [(*sums.arguments, *ends) for ends in cuts])

    def capturing(self, device: Device, stream: int | None) -> bool:
        """A CPU has no streams."""
        return False

    def load(
        self,
        launches: Sequence[Launch],
        device: Device,
        prologue: Prologue | None = None,
        control: Memory | None = None,
        counts: NDArray[np.int64] | None = None,
        counts_memory: Memory | None = None,
    ) -> CpuProgram:
        """Compile what the launches need; counts are shared with graphs only, which a CPU has none of."""
        first = None
        if prologue is not None and control is not None and counts is not None:
            first = _Prologue(prologue, control, counts, self.pool.count)
        return CpuProgram(launches, self.pool, first)


class CpuProgram:
    """Launches whose work is cut into as many parts as there are threads, once."""

    def __init__(self, launches: Sequence[Launch], pool: ThreadPool, prologue: _Prologue | None) -> None:
        self._pool = pool
        self._prologue = prologue
        self._calls = [_Call(launch, pool.count) for launch in launches]
        self._fix()

    def _fix(self) -> None:
        # Where the prologue computes the rows they are always the same arrays.
        rows = None if self._prologue is None else self._prologue.rows
        self._fixed: Stage = [] if rows is None else [(call.kernel, call.parts(rows)) for call in self._calls]

    def run(self, coefficients: CoefficientRows | None, stream: int | None = None, then: Stage = ()) -> None:
        """Run every launch once, the prologue first; a CPU has no streams."""
        before: Sequence[Stage] = () if self._prologue is None else self._prologue.stages
        launches = self._fixed
        if coefficients is not None:
            launches = [(call.kernel, call.parts(coefficients)) for call in self._calls]
        self._pool.run_all(*before, launches, then)

    def rebind(self, launch: int | None, role: int, stream: int | None = None) -> None:
        """Nothing to do: the kernels read the plan's own tables."""

    def take(self, present: NDArray[np.bool_], stream: int | None = None) -> None:
        """Share out to the threads what is left to do."""
        if self._pool.count > 1 and sum(call.cut(present) for call in self._calls):
            self._fix()

    def instruct(self, settings: NDArray[np.int64], stream: int | None = None) -> None:
        """Take up the settings."""
        if self._prologue is not None:
            self._prologue.settings[:] = settings

    def counts(self) -> NDArray[np.int64]:
        """The cohorts' step counts."""
        return np.zeros(0, np.int64) if self._prologue is None else self._prologue.counts.copy()

    def recent_counts(self) -> tuple[NDArray[np.int64], int]:
        """The cohorts' step counts, which are never behind."""
        return self.counts(), 0

    def measure(self, stream: int | None = None) -> None:
        """Nothing to do: there is one CPU, and `run` measures."""

    def gather(self, others: Sequence[Any], stream: int | None = None) -> None:
        """Nothing to do: there is one CPU."""

    def graph(self) -> Replay:
        """Refused: a CPU has no graphs."""
        raise capture_errors.no_graphs()

    is_native, is_captured = True, False

    def finish(self) -> None:
        """Nothing to do: a run returns when it is done."""

    def ordered(self, stream: int | None = None) -> AbstractContextManager[None]:
        """Nothing to do, for the same reason."""
        return nullcontext()


class _Prologue:
    """What a step begins with where the host does not know its coefficients, and the memory that it works on.

    Attributes:
        counts: The cohorts' step counts.
        settings: What it goes by.
        rows: For each working format's name the coefficients that it computes.
        stages: It measures; then it decides and computes the rows.
    """

    def __init__(self, prologue: Prologue, control: Memory, counts: NDArray[np.int64], threads: int) -> None:
        self._control = control
        self.counts = counts.copy()
        self.settings: NDArray[np.int64] = np.zeros(prologue.settings_words, np.int64)
        # As many rows of each working format as there could be.
        self.rows: dict[str, NDArray[Any]] = {
            working.name: np.zeros((prologue.cohorts, ROW_WORDS), working.dtype) for working in (FLOAT32, FLOAT64)
        }
        self._partials = np.zeros(max(prologue.slots * prologue.sources, 1))
        self.stages: list[Stage] = []
        if prologue.table is not None:
            table = prologue.table
            fixed = (table.words, table.segments, table.leaves, self._partials.ctypes.data)
            cuts = _cuts(table.leaves, prologue.elements, MEASURED_SERIAL, threads)
            self.stages.append([(measuring(), [(*fixed, *ends) for ends in cuts])])
        arguments = (
            self._partials.ctypes.data,
            prologue.slots,
            prologue.sources,
            control.address,
            *(array.ctypes.data for array in (self.settings, self.counts, *self.rows.values())),
        )
        self.stages.append([(finishing(prologue.rule), [arguments])])


class _Call:
    """One launch: its kernel, and the arguments of each part but for the coefficients."""

    def __init__(self, launch: Launch, threads: int) -> None:
        kind = launch.specialization
        self.kernel = compiled(kind)
        self._working = kind.working.name
        self._row: int | slice = slice(None)
        self._launch, self._threads = launch, threads
        self._resting = 0
        self._parts: list[tuple[Any, ...]] = []
        if launch.table is not None:
            self._indices = np.array([task.index for task in launch.tasks], np.intp)
            self._sizes = launch.table.ends - launch.table.begins
            self._cut(launch.table, None)
            return
        (task,) = launch.tasks
        fixed: tuple[Any, ...]
        self._row = task.row
        if task.width:
            fixed = (*task.pointers, task.width, task.indices)
            cuts_of = _cuts(task.size // task.width, task.size, SERIAL, threads)
        else:
            fixed = task.pointers
            # Cuts at multiples of 1,024 elements keep each thread's stretch on cache lines of its own.
            cuts_of = _cuts(task.size, task.size, SERIAL, threads, 1024)
        self._parts = [(*fixed, *ends) for ends in cuts_of]

    def cut(self, present: NDArray[np.bool_]) -> bool:
        """Share out what these parameters have of it, unless so little more or less rests that it makes no difference; whether it did."""
        table = self._launch.table
        if table is None:
            return False
        here = present[self._indices]
        resting = int(self._sizes[~here].sum())
        if _SLACK * max(resting, self._resting) < self._launch.elements:
            return False
        self._resting = resting
        self._cut(table, here)
        return True

    def _cut(self, table: Table, present: NDArray[np.bool_] | None) -> None:
        segments, chunk = table.chunk_segments, self._launch.chunk
        covered = np.minimum(table.chunk_starts + chunk, table.ends[segments]) - table.chunk_starts
        if present is not None:
            covered *= present[segments]
        done = np.concatenate(([0], np.cumsum(covered)))
        count = max(1, min(self._threads, -(-int(done[-1]) // SERIAL)))
        cuts = np.searchsorted(done, done[-1] * np.arange(count + 1) / count).tolist()
        # What comes after the last element that is updated belongs to the last thread.
        cuts[-1] = table.chunks
        fixed = (table.words, table.segments, table.chunks, chunk)
        self._parts = [(*fixed, *ends) for ends in pairwise(cuts)]

    def parts(self, coefficients: CoefficientRows) -> list[tuple[Any, ...]]:
        rows = coefficients[self._working][self._row]
        return [(*part, rows) for part in self._parts]


def _cuts(count: int, elements: int, serial: int, threads: int, multiple: int = 1) -> list[tuple[int, int]]:
    """Where each thread's part of ``count`` things begins and ends, which are ``elements`` elements together.

    A part has at least ``serial`` elements or so; it begins at a multiple of ``multiple``.
    """
    parts = max(1, min(threads, -(-elements // serial)))
    return list(pairwise([*(count * k // parts // multiple * multiple for k in range(parts)), count]))
