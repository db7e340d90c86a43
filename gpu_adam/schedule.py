"""From parameters, gradients and step counts to a plan, its programs on their devices, and the coefficients of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .arrays import Family
from .engines import Engine, Program
from .formats import Format
from .gradients import Gradients
from .hyperparameters import Hyperparameters
from .kernels.rules import RULES
from .layout import ALIGNMENT, Device, Walk, walk
from .plan import MAX_STATES, ROLES, ROW_WORDS, Launch, Plan, Table, Task, schedule
from .state import Placed

_GRAD = ROLES.index("grad")


@dataclass(frozen=True)
class Cohort:
    """Parameters that share a row of coefficients: of one group, one working format and one step count.

    Attributes:
        group: The group's number.
        working: The working format.
        row: The row among those of its working format.
        first: One of its parameters, whose step count is that of all.
    """

    group: int
    working: Format
    row: int
    first: int


@dataclass(frozen=True)
class _Place:
    """Where a parameter's gradient pointer stands."""

    shard: int
    launch: int
    table: Table
    segment: int


class Schedule:
    """What a step runs while no gradient comes or goes or changes its format or strides.

    Until `load` it is a plan and no more: nothing is compiled, nothing is on a device.
    """

    def __init__(
        self,
        params: Sequence[Placed],
        gradients: Gradients,
        steps: NDArray[np.int64],
        hyperparameters: Sequence[Hyperparameters],
    ) -> None:
        active = [placed for placed in params if gradients.shape(placed.index) is not None]
        self.active: slice | list[int] = slice(None) if len(active) == len(params) else [p.index for p in active]
        self._cohorts: dict[tuple[int, Format, int], Cohort] = {}
        self._gradients = gradients
        counts: dict[Format, int] = {}
        tasks: dict[Device, list[Task]] = {}
        for placed in active:
            working = placed.ref.format.working
            key = (placed.group, working, int(steps[placed.index]))
            if key not in self._cohorts:
                row = counts.get(working, 0)
                counts[working] = row + 1
                self._cohorts[key] = Cohort(placed.group, working, row, placed.index)
            task = self._task(placed, hyperparameters[placed.group].rule, self._cohorts[key].row)
            tasks.setdefault(placed.ref.device, []).append(task)
        self._rows = {working.name: np.zeros((count, ROW_WORDS), working.dtype) for working, count in counts.items()}
        by_index = {placed.index: placed for placed in active}
        launches: list[Launch] = []
        self._shards: list[_Shard] = []
        self._places: dict[int, _Place] = {}
        for device, members in tasks.items():
            first = by_index[members[0].index]
            engine = first.state.engine
            own = schedule(_merge_packed(members, by_index), device, engine.processors(device), engine.policy)
            self._shards.append(_Shard(device, engine, own, first.ref.family))
            launches.extend(own)
            for number, launch in enumerate(own):
                if launch.table is not None:
                    for segment, task in enumerate(launch.tasks):
                        self._places[task.index] = _Place(len(self._shards) - 1, number, launch.table, segment)
        states = {id(placed.state): placed.state for placed in params}
        self.plan = Plan(tuple(state.bucket for state in states.values()), tuple(launches))
        tensors = [placed.ref.array for placed in active if placed.ref.family == "torch"]
        self.tensors = tuple(tensor for tensor in tensors if not tensor.is_inference())
        self._programs: list[Program] = []

    @property
    def is_flat(self) -> bool:
        """Whether every launch is of the flat family."""
        return all(launch.table is None for launch in self.plan.launches)

    def load(self) -> None:
        """Compile what the launches need and bring their tables to the devices."""
        self._programs = [shard.engine.load(shard.launches, shard.device) for shard in self._shards]

    def _task(self, placed: Placed, rule: str, row: int) -> Task:
        ref, state, place = placed.ref, placed.state, placed.segment.start
        names = RULES[rule].states
        shape = self._gradients.shape(placed.index)
        assert shape is not None
        format, strides = shape
        pointers = (
            ref.address,
            self._gradients.address(placed.index),
            *(state.address(name, place) for name in names),
            *(0,) * (MAX_STATES - len(names)),
            state.address("master", place),
        )
        return Task(
            index=placed.index,
            label=placed.label,
            size=placed.segment.size,
            phase=placed.segment.phase,
            walk=walk(ref.shape, ref.strides, strides),
            row=row,
            flat=False,
            param=ref.format,
            grad=format,
            master=placed.master,
            rule=rule,
            states=len(names),
            pointers=pointers,
        )

    def rebind(self, moved: Sequence[int]) -> bool:
        """Take up the new addresses of these parameters' gradients.

        Returns:
            Whether it could: a gradient that has left its bucket needs another schedule.
        """
        touched: dict[tuple[int, int], _Place] = {}
        for index in moved:
            place = self._places.get(index)
            if place is None:
                return False
            offset = int(place.table.begins[place.segment]) * self._gradients.itemsize(index)
            place.table.pointers[_GRAD, place.segment] = self._gradients.address(index) - offset
            touched[place.shard, place.launch] = place
        for shard, launch in touched:
            self._programs[shard].rebind(launch, _GRAD, self._shards[shard].stream())
        return True

    def prepare(self, steps: NDArray[np.int64], hyperparameters: Sequence[Hyperparameters]) -> None:
        """Compute the coefficients of the next step.

        Raises:
            TypeError, ValueError: If a learning rate given as a function returns what is none; nothing has changed then.
        """
        for cohort in self._cohorts.values():
            hyper = hyperparameters[cohort.group]
            t = int(steps[cohort.first]) + 1
            lr = hyper.lr_at(t, f"group {cohort.group}")
            self._rows[cohort.working.name][cohort.row] = hyper.row(t, lr, cohort.working)

    def run(self) -> None:
        """Launch, on each device's current stream."""
        for shard, program in zip(self._shards, self._programs, strict=True):
            program.run(self._rows, shard.stream())


@dataclass(frozen=True)
class _Shard:
    """One device's part of a step, and the library that its arrays are of."""

    device: Device
    engine: Engine
    launches: tuple[Launch, ...]
    family: Family

    def stream(self) -> int | None:
        return current_stream(self.family, self.device)


def current_stream(family: Family, device: Device) -> int | None:
    """The stream that a library's user works on, as a handle; ``None`` for a CPU, and to leave the choice to the engine."""
    if device.kind == "cpu":
        return None
    if family == "torch":
        import torch

        return int(torch.cuda.current_stream(device.index).cuda_stream)
    if family == "cupy":
        import cupy

        with cupy.cuda.Device(device.index):
            return int(cupy.cuda.get_current_stream().ptr)
    return None


def _merge_packed(tasks: Sequence[Task], params: Mapping[int, Placed]) -> list[Task]:
    """The tasks, those that follow each other in a bucket of parameters and gradients made one flat stretch.

    Only where every bucket's row of coefficients becomes a single stretch; where gaps would make more, the tensors stay as they
    are and share one multi-tensor launch.
    """
    apart: list[Task] = []
    runs: list[list[Task]] = []
    for task in tasks:
        placed = params[task.index]
        if task.size == 0 or not _in_bucket(task, placed):
            apart.append(task)
        elif runs and _continues(runs[-1][-1], task, params):
            runs[-1].append(task)
        else:
            runs.append([task])
    stretches = {(id(params[run[0].index].state), run[0].row) for run in runs}
    if len(runs) > len(stretches):
        return list(tasks)
    return [*apart, *(_flat(run, params) for run in runs)]


def _in_bucket(task: Task, placed: Placed) -> bool:
    state, start = placed.state, placed.segment.start
    bound = (state.address("param", start), state.address("grad", start))
    return state.has("param") and task.pointers[:2] == bound and task.grad is task.param and task.walk.contiguous


def _continues(last: Task, task: Task, params: Mapping[int, Placed]) -> bool:
    before, after = params[last.index], params[task.index]
    end = before.segment.offset + -(-before.segment.size // ALIGNMENT) * ALIGNMENT
    return before.state is after.state and last.row == task.row and end == after.segment.offset


def _flat(run: Sequence[Task], params: Mapping[int, Placed]) -> Task:
    first, last = run[0], run[-1]
    size = params[last.index].segment.start + last.size - params[first.index].segment.start
    label = f"{len(run):,} packed tensors"
    return replace(first, label=label, size=size, walk=Walk((size,), (1,), (1,)), flat=True)
