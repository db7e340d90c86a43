"""The launches of one GPU, ready to run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import starmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...device import Device
from ...dtypes import format_named
from ...kernels.abi import ROLES, ROW_WORDS, WORD
from ...plan.launches import Launch
from ...plan.prologue import Prologue
from ...process.native import at_once
from .. import CoefficientRows, Engine, Memory, Replay, Stage, capture_errors
from .arguments import update_arguments
from .binding import Binding, Call, Graph
from .prologue import GpuPrologue
from .staging import Imprints, Staging, rounded

_GRAD = ROLES.index("grad")

IMPRINTS = 16
"""Sets of gradients' addresses that captured steps may differ in before a step is run that is not captured."""


class GpuProgram:
    """Launches of one device: tables and coefficients at fixed addresses, so that the kernels' arguments never change.

    A step that the caller captures takes its gradients' addresses along, and a replay leaves them in the tables. So once there may
    be such graphs, every step sends its own.
    """

    def __init__(
        self,
        engine: Engine,
        cuda: Binding,
        device: Device,
        staging: Staging,
        launches: Sequence[Launch],
        functions: Sequence[Any],
        prologue: GpuPrologue | None,
    ) -> None:
        """Bring the tables to the device, which is current.

        Args:
            engine: Whose memory to take.
            cuda: Its way to CUDA.
            device: Where.
            staging: The way up, of this program alone.
            launches: The updates.
            functions: Their kernels.
            prologue: What comes before them; ``None`` where the host gives the coefficients.
        """
        self._cuda = cuda
        self._device = device
        self._staging = staging
        self._launches = tuple(launches)
        self._prologue = prologue
        self._tables = [engine.allocate(device, table_bytes(launch)) for launch in launches]
        for launch, memory in zip(launches, self._tables, strict=True):
            if launch.table is not None:
                engine.upload(memory, 0, launch.table.words)
        self._rows = rows_needed(launches)
        self._coefficients: Mapping[str, Memory] = {
            working: engine.allocate(device, rows * ROW_WORDS * format_named(working).itemsize)
            for working, rows in (self._rows if prologue is None else {}).items()
        }
        if prologue is not None:
            self._coefficients = prologue.coefficients
        self._calls = [
            Call(
                function,
                launch.grid,
                launch.block,
                update_arguments(
                    launch, memory.address, self._coefficients[launch.specialization.working.name].address
                ),
            )
            for launch, function, memory in zip(launches, functions, self._tables, strict=True)
        ]
        self._pointers: dict[tuple[int | None, int], tuple[NDArray[np.int64], int]] = {
            (index, _GRAD): self._pointer_row(index, _GRAD)
            for index, launch in enumerate(launches)
            if launch.table is not None
        }
        if prologue is not None:
            self._calls.insert(0, prologue.call)
            if prologue.plan.table is not None:
                self._pointers[None, _GRAD] = prologue.plan.table.pointers, prologue.table
            self._imprints = Imprints(cuda, IMPRINTS * pointer_bytes(launches, prologue.plan))
        self._is_captured = False

    is_native = False

    def run(self, coefficients: CoefficientRows | None, stream: int | None = None, then: Stage = ()) -> None:
        """Run every launch once, the prologue first where there is one."""
        cuda = self._cuda
        with cuda.on(self._device.index):
            stream = cuda.stream(stream)
            if cuda.is_capturing(stream):
                self._run_captured(coefficients, stream)
            else:
                self._begin(stream)
                if coefficients is not None:
                    for working, rows in self._rows.items():
                        self._staging.send(coefficients[working][:rows], self._coefficients[working].address, stream)
                self._queue(stream)
                self._staging.end_step()
        for function, arguments in then:
            at_once(starmap(function, arguments))

    def _begin(self, stream: int) -> None:
        """Begin a step in the stream, after the one before it."""
        self._staging.follow(stream)
        if self._prologue is not None:
            self._prologue.counts.begin_run()
        if self._is_captured:
            self._imprints.refill()
            for data, to in self._pointers.values():
                self._staging.send(data, to, stream)

    def _queue(self, stream: int) -> None:
        for call in self._calls:
            self._cuda.launch(call, stream)

    def _run_captured(self, coefficients: CoefficientRows | None, stream: int) -> None:
        """Queue a step in a stream that is being captured: it knows neither steps before it nor steps after it."""
        if coefficients is not None:
            raise capture_errors.not_capturable()
        self._begin_capture()
        for data, to in self._pointers.values():
            self._imprints.send(data, to, stream)
        self._queue(stream)

    def _begin_capture(self) -> None:
        self._on_device.require_alone()
        self._is_captured = True

    def rebind(self, launch: int | None, role: int, stream: int | None = None) -> None:
        """Take up one role's row of pointers of a table, in the order of the stream."""
        if (launch, role) not in self._pointers:
            if launch is None or self._launches[launch].table is None:
                raise ValueError(f"launch {launch} has no table to take pointers from")
            self._pointers[launch, role] = self._pointer_row(launch, role)
        with self._cuda.on(self._device.index):
            stream = self._cuda.stream(stream)
            if self._cuda.is_capturing(stream):
                self._begin_capture()
            # Where there are graphs the run itself sends them.
            if not self._is_captured:
                self._staging.send(*self._pointers[launch, role], stream)

    def take(self, present: NDArray[np.bool_], stream: int | None = None) -> None:
        """Send which gradients the prologue measures, in the order of the stream; the coefficients say which parameters are updated."""
        prologue = self._prologue
        if prologue is None or prologue.plan.table is None:
            return
        with self._cuda.on(self._device.index):
            stream = self._cuda.stream(stream)
            table = prologue.plan.table
            measured = table.measured
            self._staging.send(table.words[measured], prologue.table + measured.start * WORD, stream)

    def _pointer_row(self, launch: int, role: int) -> tuple[NDArray[np.int64], int]:
        """A role's row of a table, and its address on the device."""
        table = self._launches[launch].table
        assert table is not None
        return table.pointers[role], self._tables[launch].address + table.pointer_words(role).start * WORD

    # Beside the runs.

    @property
    def is_captured(self) -> bool:
        """Whether the caller has captured runs, whose graph may be replayed at any time."""
        return self._is_captured

    def finish(self) -> None:
        """Have the host wait until all runs are done."""
        with self._cuda.on(self._device.index):
            self._cuda.wait()

    @contextmanager
    def ordered(self, stream: int | None = None) -> Iterator[None]:
        """A block: what is queued in it on the stream comes after the last run and before the next one."""
        with self._cuda.on(self._device.index):
            stream = self._cuda.stream(stream)
            # In a capture nothing from outside can be waited for.
            free = not self._cuda.is_capturing(stream)
            apart = free and self._staging.is_elsewhere(stream)
            if apart:
                self._staging.follow(stream)
        try:
            yield
        finally:
            with self._cuda.on(self._device.index) if free else nullcontext():
                if apart:
                    self._staging.end_step()
                elif free:
                    # The next step may go on elsewhere.
                    self._staging.prolong_step()

    # Where a prologue computes the coefficients.

    @property
    def _on_device(self) -> GpuPrologue:
        if self._prologue is None:
            raise RuntimeError("the program has no prologue: it takes its coefficients from the host")
        return self._prologue

    def instruct(self, settings: NDArray[np.int64], stream: int | None = None) -> None:
        """Send the settings that the prologue goes by from the next run on, in the order of the stream."""
        prologue = self._on_device
        with self._cuda.on(self._device.index):
            stream = self._cuda.stream(stream)
            if self._cuda.is_capturing(stream):
                raise capture_errors.settings_sent()
            prologue.counts.note(stream)
            self._staging.send(settings, prologue.settings, stream)

    def counts(self) -> NDArray[np.int64]:
        """The cohorts' step counts after all runs so far, for which it waits."""
        return self._on_device.counts.read()

    def recent_counts(self) -> tuple[NDArray[np.int64], int]:
        """Step counts of some moment that are known without waiting, and how many runs have begun since.

        Once a step was captured by the caller it does wait: nobody says how often the graph is replayed.
        """
        return (self.counts(), 0) if self._is_captured else self._on_device.counts.recent()

    def measure(self, stream: int | None = None) -> None:
        """Run the prologue's first stage alone; only where gradients lie on several devices."""
        prologue = self._on_device
        with self._cuda.on(self._device.index):
            stream = self._cuda.stream(stream)
            if self._cuda.is_capturing(stream):
                prologue.require_alone()
            self._staging.follow(stream)
            prologue.measure(stream)

    def gather(self, others: Sequence[GpuProgram], stream: int | None = None) -> None:
        """Bring the sums of the other devices' programs here, after they are measured; the next run's prologue adds them up."""
        with self._cuda.on(self._device.index):
            stream = self._cuda.stream(stream)
            self._staging.follow(stream)
            self._on_device.gather([other._on_device for other in others], stream)

    # Graphs.

    def graph(self) -> Replay:
        """What `run` launches, as a graph; it reads the gradients that the tables have when it is replayed."""
        self._on_device.require_alone()
        with self._cuda.on(self._device.index):
            return partial(self._replay, self._cuda.capture(self._queue))

    def _replay(self, graph: Graph, stream: int | None = None) -> None:
        with self._cuda.on(self._device.index):
            stream = self._cuda.stream(stream)
            if self._cuda.is_capturing(stream):
                raise capture_errors.graph_in_graph("the step")
            self._begin(stream)
            graph.launch(stream)
            self._staging.end_step()


def table_bytes(launch: Launch) -> int:
    """Bytes of a launch's table."""
    return 0 if launch.table is None else launch.table.words.nbytes


def rows_needed(launches: Sequence[Launch]) -> dict[str, int]:
    """For each working format's name, how many rows of coefficients the launches refer to."""
    rows: dict[str, int] = {}
    for launch in launches:
        working = launch.specialization.working.name
        rows[working] = max(rows.get(working, 0), *(task.row + 1 for task in launch.tasks))
    return rows


def staging_bytes(launches: Sequence[Launch], prologue: Prologue | None) -> int:
    """All that a step sends as a rule: coefficients or settings, and the gradients' pointers where they are allocated anew each time."""
    if prologue is not None:
        table = prologue.table
        measured = 0 if table is None else rounded(table.words[table.measured].nbytes)
        return rounded(prologue.settings_words * WORD) + measured + pointer_bytes(launches, prologue)
    rows = rows_needed(launches).items()
    coefficients = sum(rounded(count * ROW_WORDS * format_named(working).itemsize) for working, count in rows)
    return coefficients + pointer_bytes(launches, prologue)


def pointer_bytes(launches: Sequence[Launch], prologue: Prologue | None) -> int:
    """The gradients' pointers of all tables."""
    segments = [launch.table.segments for launch in launches if launch.table is not None]
    if prologue is not None and prologue.table is not None:
        segments.append(prologue.table.segments)
    return sum(rounded(count * WORD) for count in segments)
