"""From parameters, gradients and step counts to a plan, its programs on their devices, and the coefficients of each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Family, copying_stream, counts_versions, current_stream
from ..casting import store_row
from ..checks import MOST_STEPS
from ..device import Device
from ..engines import Engine, Memory, Program, Stage
from ..kernels.abi import MAX_STATES, ROW_WORDS
from ..kernels.rules.rule import Rule
from ..kernels.specialization import ROLES
from ..plan.launches import Launch, Plan, Task
from ..plan.prologue import Prologue
from ..plan.scheduling import schedule
from ..plan.tables import Gradient, MeasureTable, Table
from ..rules.algorithm import Hyperparameters, coefficients, refuse_infinite
from ..rules.hyperparameters import Asked, Averaging
from ..state.parameter import Placed
from .cohorts import Mode, cohorts_of, ranges_of, slots_of
from .counts import SharedCounts
from .gradients import Gradients
from .packing import merge_packed
from .scaling import Scaling
from .settings import WINDOW_ENTRIES, Cohort, Limits, Settings

_GRAD = ROLES.index("grad")

_NO_MORE_STEPS = f"a parameter has made {MOST_STEPS} steps, the most that can be saved: load a state of fewer steps"


@dataclass(frozen=True)
class _Place:
    """Where a parameter's gradient pointer stands in a launch's table."""

    shard: int
    launch: int
    table: Table
    segment: int


@dataclass(frozen=True)
class _Shard:
    """One device's part of a step, and the library that its arrays are of."""

    device: Device
    engine: Engine
    launches: tuple[Launch, ...]
    family: Family
    prologue: Prologue | None
    measured: Mapping[int, int]
    """For each parameter whose gradient the prologue measures its place in the prologue's table."""

    def stream(self, given: int | None) -> int | None:
        return current_stream(self.family, self.device) if given is None else given


class Schedule:
    """What a step runs while no gradient comes or goes or changes its format or strides.

    Until `load` it is a plan and no more: nothing is compiled, nothing is on a device.

    Attributes:
        mode: How a step comes to its coefficients.
        plan: The launches, as values.
        count: Counts a step in the parameters' step counts.
        is_native: Whether `run` is one call of C code from its first change on, so that no handler of a signal comes in between.
        first: The first of them; ``None`` where there is none.
        tensors: Those of them that are torch's and count their versions.
        shared_counts: Where the steps are counted, if other schedules count there too.
    """

    def __init__(
        self,
        params: Sequence[Placed],
        gradients: Gradients,
        steps: NDArray[np.int64],
        hyperparameters: Sequence[Hyperparameters],
        averaging: Averaging,
        mode: Mode,
    ) -> None:
        self.mode = mode
        self._gradients = gradients
        self._averaging = averaging
        self._hyper = hyperparameters
        self._checked: Sequence[Hyperparameters] | None = None
        active = [placed for placed in params if gradients.operand(placed.index) is not None]
        self._active: slice | list[int] = slice(None) if len(active) == len(params) else [p.index for p in active]
        increments: NDArray[np.int64] = np.zeros(len(params), np.int64)
        increments[self._active] = 1
        # Where a prologue counts, that is a part of the launches.
        self.count: Stage = () if mode.on_device else [(np.add, [(steps, increments, steps)])]
        self.is_native = False
        self._members = [placed.index for placed in active]
        self._cohorts, self._cohort_of = cohorts_of(active, steps)
        self._records = [] if mode.on_device else self._fresh_records(hyperparameters)
        self._rows = {
            working.name: np.zeros(
                (1 + max(c.row for c in self._cohorts if c.working is working), ROW_WORDS), working.dtype
            )
            for working in {cohort.working for cohort in self._cohorts}
        }
        self.first = active[0].ref if active else None
        slots = slots_of(active, gradients) if mode.measures else [0]
        ranges = ranges_of(active, slots, mode, len(hyperparameters))
        self._settings = Settings(self._cohorts, ranges) if mode.on_device else None
        # What the devices do not know yet: the settings, and pointers, by shard and launch.
        self._is_unsent = False
        self._moved: dict[tuple[int, int | None], None] = {}
        self._shards: list[_Shard] = []
        self._places: dict[int, _Place] = {}
        devices: dict[Device, list[int]] = {}
        for k, placed in enumerate(active):
            devices.setdefault(placed.ref.device, []).append(k)
        for device, members in devices.items():
            tasks = [self._task(active[k], self._cohorts[self._cohort_of[k]]) for k in members]
            prologue: Prologue | None = None
            measured: dict[int, int] = {}
            if self._settings is not None:
                measures = [(active[k], slots[k]) for k in members] if mode.measures else []
                # Rules that are mixed in an optimizer share their coefficients, so one kernel is enough for all.
                rule = hyperparameters[0].algorithm.rules[0]
                prologue, measured = self._prologue(rule, device, measures, slots[-1], len(devices))
            engine = active[members[0]].engine
            merged = merge_packed(tasks, {active[k].index: active[k] for k in members})
            launches = schedule(merged, device, engine.processors(device), engine.policy)
            for number, launch in enumerate(launches):
                if launch.table is not None:
                    for segment, task in enumerate(launch.tasks):
                        self._places[task.index] = _Place(len(self._shards), number, launch.table, segment)
            family = active[members[0]].ref.family
            self._shards.append(_Shard(device, engine, launches, family, prologue, measured))
        states = {id(placed.state): placed.state for placed in params if placed.place is not None}
        # A graph of the caller's may go on working there when the parameters have got other states.
        self._held = [state.memories for state in states.values()]
        prologues = tuple(shard.prologue for shard in self._shards if shard.prologue is not None)
        launches = tuple(launch for shard in self._shards for launch in shard.launches)
        self.plan = Plan(tuple(state.bucket for state in states.values()), prologues, launches)
        tensors = [placed.ref.array for placed in active if placed.ref.family == "torch"]
        self.tensors = tuple(tensor for tensor in tensors if counts_versions(tensor))
        self._counts = np.array([steps[cohort.first] for cohort in self._cohorts], np.int64)
        self._left = _left_of(self._counts)
        self._programs: list[Program] = []
        self.shared_counts: SharedCounts | None = None

    @property
    def is_flat(self) -> bool:
        """Whether every launch is of the flat family."""
        return all(launch.table is None for launch in self.plan.launches)

    @property
    def engines(self) -> dict[Device, Engine]:
        """The engine of each device."""
        return {shard.device: shard.engine for shard in self._shards}

    @property
    def cohorts(self) -> list[tuple[int, ...]]:
        """For each cohort the numbers of its parameters."""
        members: list[list[int]] = [[] for _ in self._cohorts]
        for index, cohort in zip(self._members, self._cohort_of, strict=True):
            members[cohort].append(index)
        return list(map(tuple, members))

    def load(self, controls: Mapping[Device, Memory], shared: SharedCounts | None = None) -> None:
        """Compile what the launches need and bring their tables to the devices.

        Args:
            controls: The control words of each device.
            shared: Where the steps are counted; ``None`` for memory of the schedule's own.
        """
        memory = None if shared is None else shared.memory
        self._programs = [
            shard.engine.load(
                shard.launches, shard.device, shard.prologue, controls.get(shard.device), self._counts, memory
            )
            for shard in self._shards
        ]
        self.is_native = len(self._programs) <= 1 and all(program.is_native for program in self._programs)
        if shared is not None:
            shared.take(self.cohorts, self._counts)
        self.shared_counts = shared

    def _fresh_records(self, hyperparameters: Sequence[Hyperparameters]) -> list[list[float]]:
        return [hyperparameters[cohort.group].record(self._averaging, cohort.working) for cohort in self._cohorts]

    def _task(self, placed: Placed, cohort: Cohort) -> Task:
        operand = self._gradients.operand(placed.index)
        assert operand is not None
        rule = self._hyper[placed.group].rule
        names = rule.states
        averages = bool(self._averaging)
        pointers = (
            placed.ref.address,
            operand.address,
            *(placed.address(name) for name in names),
            *(0,) * (MAX_STATES - len(names)),
            placed.address("master"),
            placed.address("average") if averages else 0,
        )
        return Task(
            index=placed.index,
            label=placed.label,
            size=operand.size,
            phase=placed.segment.phase,
            walk=operand.walk,
            row=cohort.row,
            flat=False,
            param=placed.ref.format,
            grad=operand.format,
            master=placed.master,
            average=averages,
            rule=rule,
            pointers=pointers,
            width=operand.width,
            indices=operand.indices,
        )

    def _prologue(
        self, rule: Rule, device: Device, measures: Sequence[tuple[Placed, int]], slots: int, sources: int
    ) -> tuple[Prologue, dict[int, int]]:
        operands = [(placed.index, self._gradients.operand(placed.index), slot) for placed, slot in measures]
        measured = [(index, operand, slot) for index, operand, slot in operands if operand is not None and operand.size]
        gradients = [
            Gradient(operand.address, operand.size, operand.format, operand.walk, slot) for _, operand, slot in measured
        ]
        assert self._settings is not None
        prologue = Prologue(
            rule=rule,
            device=device,
            table=MeasureTable(gradients) if gradients else None,
            slots=slots,
            sources=sources if self.mode.measures else 1,
            cohorts=len(self._cohorts),
            settings_words=len(self._settings.words),
            elements=sum(gradient.size for gradient in gradients),
            bytes_read=sum(gradient.size * gradient.format.itemsize for gradient in gradients),
        )
        return prologue, {index: segment for segment, (index, _, _) in enumerate(measured)}

    def rebind(self, moved: Sequence[int]) -> bool:
        """Take up the new addresses of these parameters' gradients; they are brought to the devices by the next run.

        Returns:
            Whether it could: a gradient that has left its bucket needs another schedule.
        """
        for index in moved:
            place = self._places.get(index)
            if place is None:
                return False
            address = self._gradients.address(index)
            offset = int(place.table.begins[place.segment]) * self._gradients.itemsize(index)
            place.table.pointers[_GRAD, place.segment] = address - offset
            self._moved[place.shard, place.launch] = None
            shard = self._shards[place.shard]
            if shard.prologue is not None and shard.prologue.table is not None and index in shard.measured:
                shard.prologue.table.pointers[shard.measured[index]] = address
                self._moved[place.shard, None] = None
        return True

    # Of each step.

    def prepare(
        self,
        steps: NDArray[np.int64],
        hyperparameters: Sequence[Hyperparameters],
        scaling: Scaling,
        limits: Limits,
        *,
        wait: bool = False,
    ) -> None:
        """Compute the coefficients of the next step, or what the prologue computes them from.

        Args:
            steps: The parameters' step counts, where the host knows them.
            hyperparameters: Of each group.
            scaling: How the gradients are scaled.
            limits: What is done about their norm.
            wait: Whether to wait for the device's step counts, because steps were run without the host.

        Raises:
            TypeError, ValueError: If a hyperparameter given as a function returns what is not allowed; nothing has changed then.
        """
        if self._settings is None:
            self._compute_rows(steps, hyperparameters, scaling)
            return
        self._count_down()
        if hyperparameters is not self._checked:
            self._check_rows(steps, hyperparameters)
        if not self._settings.hold(hyperparameters, scaling, limits):
            # Said first, and until they are sent: an exception may come in between.
            self._is_unsent = True
            self._settings.update(hyperparameters, self._averaging, scaling, limits)
        # Nobody says how often a graph that counts there was replayed.
        wait = wait or (self.shared_counts is not None and self.shared_counts.is_captured)
        if self._settings.is_scheduled and self._programs:
            counts, behind = (self._programs[0].counts(), 0) if wait else self._programs[0].recent_counts()
            if behind >= WINDOW_ENTRIES:
                counts, behind = self._programs[0].counts(), 0
            self._is_unsent = True
            self._settings.update_windows(counts.tolist(), behind)

    def _count_down(self) -> None:
        """Refuse a step beyond the last that is counted; where the device counts, it is asked when that may be near."""
        if self._left < 1 and self._programs:
            self._left = _left_of(self._programs[0].counts())
        if self._left < 1:
            raise ValueError(_NO_MORE_STEPS)
        self._left -= 1

    def _check_rows(self, steps: NDArray[np.int64], hyperparameters: Sequence[Hyperparameters]) -> None:
        """Refuse what the host can see to overflow in the next step, as `_compute_rows` does; the device saturates."""
        for cohort in self._cohorts:
            hyper = hyperparameters[cohort.group]
            if not hyper.is_scheduled:
                record = hyper.record(self._averaging, cohort.working)
                t, where = int(steps[cohort.first]) + 1, f"group {cohort.group}"
                refuse_infinite(coefficients(hyper, record, t, 1.0, where), hyper, cohort.working, t, where)
        self._checked = hyperparameters

    def _compute_rows(
        self, steps: NDArray[np.int64], hyperparameters: Sequence[Hyperparameters], scaling: Scaling
    ) -> None:
        if hyperparameters is not self._hyper:
            # In this order: where an exception comes in between, it is done again.
            self._records = self._fresh_records(hyperparameters)
            self._hyper = hyperparameters
        factor = 1.0 / scaling.scale
        asked: Asked = {}
        # Numbers that follow no schedule give the largest coefficients at the smallest t.
        first = hyperparameters is not self._checked
        for cohort, record in zip(self._cohorts, self._records, strict=True):
            t = int(steps[cohort.first]) + 1
            if t > MOST_STEPS:
                raise ValueError(_NO_MORE_STEPS)
            hyper, where = hyperparameters[cohort.group], f"group {cohort.group}"
            row = coefficients(hyper, record, t, factor, where, asked)
            if first or hyper.is_scheduled:
                refuse_infinite(row, hyper, cohort.working, t, where)
            try:
                store_row(self._rows[cohort.working.name], cohort.row, row)
            except OverflowError:
                # A rule of the user's own, whose coefficients grow.
                refuse_infinite(row, hyper, cohort.working, t, where)
                raise
        self._checked = hyperparameters

    def sum_rows(self) -> None:
        """Sum the gradients of rows where the launches read them."""
        for shard in self._shards:
            self._gradients.sum_rows(shard.device, shard.stream(None))

    def send(self, stream: int | None) -> None:
        """Bring to the devices what they do not know yet: the settings, and where gradients have moved to."""
        while self._moved:
            number, launch = next(iter(self._moved))
            self._programs[number].rebind(launch, _GRAD, self._shards[number].stream(stream))
            del self._moved[number, launch]
        if self._is_unsent and self._settings is not None:
            for shard, program in zip(self._shards, self._programs, strict=True):
                program.instruct(self._settings.words, shard.stream(stream))
            self._is_unsent = False

    def run(self, stream: int | None, then: Stage = ()) -> None:
        """Launch, on each device's current stream unless one is given.

        Args:
            stream: The stream.
            then: Functions of C code, called where nothing has failed, as a part of the run.
        """
        self.send(stream)
        pairs = [(program, shard.stream(stream)) for program, shard in zip(self._programs, self._shards, strict=True)]
        if self.mode.measures and len(pairs) > 1:
            for program, own in pairs:
                program.measure(own)
            for program, own in pairs:
                program.gather([other for other in self._programs if other is not program], own)
        rows = None if self.mode.on_device else self._rows
        for number, (program, own) in enumerate(pairs, start=1):
            program.run(rows, own, then if number == len(pairs) else ())

    def graph(self) -> Callable[[int | None], None]:
        """What `run` launches on the only device, as a graph that is replayed on its current stream unless one is given."""
        ((shard, program),) = zip(self._shards, self._programs, strict=True)
        # What the devices do not know yet could not be sent in a capture that comes next.
        self.send(None)
        launch = program.graph()

        def replay(stream: int | None) -> None:
            self.send(stream)
            launch(shard.stream(stream))

        return replay

    def ordered(self) -> AbstractContextManager[Any]:
        """A block: what the arrays' libraries copy in it, each on its stream, comes after the last step and before the next one."""
        stack = ExitStack()
        for program, shard in zip(self._programs, self._shards, strict=True):
            stack.enter_context(program.ordered(copying_stream(shard.family, shard.device)))
        return stack

    def finish(self) -> None:
        """Have the host wait until all steps are done."""
        for program in self._programs:
            program.finish()

    def settle(self, steps: NDArray[np.int64]) -> None:
        """Read back the step counts that the device kept, for which it waits."""
        if self.shared_counts is not None:
            self.shared_counts.collect(steps)
        elif self.mode.on_device and self._programs:
            steps[self._active] = self._programs[0].counts()[self._cohort_of]

    # Of a step that a caller has captured.

    @property
    def is_captured(self) -> bool:
        """Whether a caller's graph may run this schedule at any time."""
        return any(program.is_captured for program in self._programs)

    def fits(self, hyperparameters: Sequence[Hyperparameters]) -> bool:
        """Whether these can be sent to it: the compiled rules are still theirs."""
        groups = {cohort.group for cohort in self._cohorts}
        return all(hyperparameters[group].rule == self._hyper[group].rule for group in groups)

    def tell(self, steps: NDArray[np.int64]) -> None:
        """Go on from the parameters' step counts, which graphs have changed."""
        if self.shared_counts is not None:
            self.shared_counts.tell(steps)
            for program in self._programs:
                program.counts()  # so that the host knows them as well


def _left_of(counts: NDArray[np.int64]) -> int:
    """Steps that may still be made."""
    return MOST_STEPS - int(counts.max(initial=0))
