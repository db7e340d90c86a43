"""From updates to a plan and its tables: a function of shapes, formats, addresses, groups, step counts and machines, and of nothing else.

Nothing is compiled here and nothing is on a device, so a plan can be printed, compared and tested anywhere. What changes from step to step
and leaves the launches as they are is written into the plan's own tables: the addresses of gradients (`StepPlan.rebind`), and which
gradients there are (`StepPlan.take`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..device import Device
from ..kernels.abi import ROLES
from ..kernels.rules.rule import Rule
from .cohorts import Cohort, Mode, Record, cohorts_of, records_of
from .launches import Launch, Plan, SparseSum, Task
from .layout import Bucket
from .packing import merge_packed
from .presence import Measured, Presence
from .prologue import Prologue, SettingsLayout
from .scheduling import launches_of
from .tables import Gradient, MeasureTable
from .updates import Machine, Update

_GRAD = ROLES.index("grad")


@dataclass(frozen=True, eq=False)
class Part:
    """What a step runs on one device.

    Attributes:
        device: Which one.
        sums: The sums of sparse gradients, which come first.
        prologue: What comes next; ``None`` where the host knows the coefficients.
        launches: The updates.
    """

    device: Device
    sums: tuple[SparseSum, ...]
    prologue: Prologue | None
    launches: tuple[Launch, ...]


@dataclass(frozen=True, eq=False)
class _PointerRow:
    """A table's row of gradients' pointers.

    Attributes:
        part, launch: Whose table; the launch is ``None`` for the prologue.
        pointers: The row.
        members: For each entry the number of its parameter.
        offsets: What is taken off the gradient's address.
    """

    part: int
    launch: int | None
    pointers: NDArray[np.int64]
    members: NDArray[np.intp]
    offsets: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class StepPlan:
    """A plan, its tables, and what else a step goes by as long as it holds.

    Attributes:
        mode: How the step comes to its coefficients.
        parts: What runs on each device.
        members: The numbers of the parameters that it is made for.
        may_rest: Whether any of them may be absent from a step: each is a cohort of its own then.
        cohorts: Which of them share their coefficients.
        cohort_of: For each of ``members`` the number of its cohort.
        records: What the cohorts' coefficients are computed from.
        record_of: For each cohort the number of its record.
        layout: Of the settings.
        rules: The rule of each group that has members.
    """

    mode: Mode
    parts: tuple[Part, ...]
    members: NDArray[np.intp]
    may_rest: bool
    cohorts: tuple[Cohort, ...]
    cohort_of: NDArray[np.intp]
    records: tuple[Record, ...]
    record_of: NDArray[np.intp]
    layout: SettingsLayout
    rules: Mapping[int, Rule]
    _plan: Plan
    _presence: Presence
    _rows: tuple[_PointerRow, ...]
    _rebindable: NDArray[np.bool_]

    @property
    def plan(self) -> Plan:
        """All that runs, for everybody to look at."""
        return self._plan.without(set(self.members[~self.present[self.members]].tolist()))

    @property
    def present(self) -> NDArray[np.bool_]:
        """For each parameter whether the step updates it."""
        return self._presence.present

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The ranges of slots whose sums of squares are asked for."""
        return self._presence.ranges

    @property
    def is_flat(self) -> bool:
        """Whether every update is of the flat family."""
        return all(launch.table is None for launch in self._plan.launches)

    def counts(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The cohorts' step counts, by those of all parameters."""
        return steps[[cohort.members[0] for cohort in self.cohorts]]

    def is_of(self, present: NDArray[np.bool_]) -> bool:
        """Whether a step as the last one updates these parameters and no others."""
        return present is self.present or not (present != self.present).any()

    def takes(self, present: NDArray[np.bool_]) -> bool:
        """Whether a step may update these parameters and no others."""
        if self.is_of(present):
            return True
        # Without any nothing runs at all: no loss scaler hears of the step.
        return self.may_rest and bool(present.any()) and self._presence.covers(present)

    def take(self, present: NDArray[np.bool_]) -> None:
        """Update these parameters from the next step on, as `takes` says that it may."""
        self._presence.take(present)

    def rebind(self, moved: Sequence[int], addresses: NDArray[np.int64]) -> list[tuple[int, int | None]] | None:
        """Write new addresses of gradients into the tables.

        Args:
            moved: The numbers of the parameters whose gradients have moved.
            addresses: The addresses of all parameters' gradients.

        Returns:
            The parts and the launches whose pointers have changed, which the devices do not know yet; the launch is ``None`` for the
            prologue. ``None`` where another plan is needed, since a gradient has left its bucket; nothing has changed then.
        """
        if not self._rebindable[moved].all():
            return None
        changed = []
        for row in self._rows:
            pointers = addresses[row.members] - row.offsets
            if not np.array_equal(pointers, row.pointers):
                row.pointers[:] = pointers
                changed.append((row.part, row.launch))
        return changed


def plan_step(
    updates: Sequence[Update],
    buckets: Sequence[Bucket],
    steps: NDArray[np.int64],
    mode: Mode,
    rules: Sequence[Rule],
    prologue_rule: Rule,
    machines: Mapping[Device, Machine],
    *,
    may_rest: bool = False,
    is_scheduled: bool = True,
) -> StepPlan:
    """The plan of a step.

    Args:
        updates: What is to be updated, in the groups' order.
        buckets: Where the state lies.
        steps: The step counts of all parameters.
        mode: How the step comes to its coefficients.
        rules: The rule of each group.
        prologue_rule: The rule by whose kernel a prologue computes the coefficients: rules that are mixed in an optimizer share these.
        machines: The devices.
        may_rest: Whether any of them may be absent from a step; not where gradients are measured on several devices.
        is_scheduled: Whether there is room for schedules, of which a plan that ``may_rest`` needs more.
    """
    cohorts, cohort_of = cohorts_of(updates, steps, apart=may_rest)
    records, record_of = records_of(cohorts)
    presence = Presence(updates, len(steps), mode, len(rules))
    layout = SettingsLayout(len(cohorts), len(records), len(presence.ranges), len(cohorts) if is_scheduled else 0)
    devices: dict[Device, list[int]] = {}
    for k, update in enumerate(updates):
        devices.setdefault(update.device, []).append(k)
    begin: Callable[..., Prologue] | None = None
    if mode.on_device:
        begin = partial(
            Prologue,
            rule=prologue_rule,
            slots=presence.slots,
            sources=len(devices) if mode.measures else 1,
            cohorts=len(cohorts),
            settings_words=layout.words,
        )
    parts, rows, tables = [], [], []
    for index, (device, members) in enumerate(devices.items()):
        own = [updates[k] for k in members]
        measured = [k for k in members if updates[k].operand.size] if mode.measures else []
        firsts = presence.firsts[measured].tolist()
        prologue = None if begin is None else _prologue(begin, device, [updates[k] for k in measured], firsts)
        if prologue is not None and prologue.table is not None:
            rows.append(_pointer_row(index, None, prologue.table.pointers, [updates[k].index for k in measured]))
            tables.append(Measured(prologue.table, np.array(measured, np.intp)))
        pairs = [(_task(updates[k], cohorts[cohort_of[k]]), updates[k]) for k in members]
        machine = machines[device]
        # A flat stretch is updated whole.
        tasks = [task for task, _ in pairs] if may_rest else merge_packed(pairs)
        launches = launches_of(tasks, device, machine.multiprocessors, machine.policy)
        for k, launch in enumerate(launches):
            if launch.table is not None:
                indices = [task.index for task in launch.tasks]
                offsets = launch.table.begins * launch.specialization.grad.itemsize
                rows.append(_pointer_row(index, k, launch.table.pointers[_GRAD], indices, offsets))
        parts.append(Part(device, _sums(own), prologue, launches))
    presence.measure(tables)
    rebindable = np.zeros(len(steps), np.bool_)
    for row in rows:
        if row.launch is not None:
            rebindable[row.members] = True
    plan = Plan(
        buckets=tuple(buckets),
        sums=tuple(one for part in parts for one in part.sums),
        prologues=tuple(part.prologue for part in parts if part.prologue is not None),
        launches=tuple(launch for part in parts for launch in part.launches),
    )
    return StepPlan(
        mode=mode,
        parts=tuple(parts),
        members=np.array([update.index for update in updates], np.intp),
        may_rest=may_rest,
        cohorts=cohorts,
        cohort_of=np.array(cohort_of, np.intp),
        records=records,
        record_of=record_of,
        layout=layout,
        rules={group: rules[group] for group, _ in records},
        _plan=plan,
        _presence=presence,
        _rows=tuple(rows),
        _rebindable=rebindable,
    )


def _task(update: Update, cohort: Cohort) -> Task:
    operand = update.operand
    return Task(
        index=update.index,
        label=update.label,
        size=operand.size,
        phase=update.segment.phase,
        walk=operand.walk,
        row=cohort.row,
        flat=False,
        param=update.format,
        grad=operand.format,
        master=update.master,
        average=update.average,
        rule=update.rule,
        pointers=update.pointers,
        width=0 if operand.sparse is None else operand.sparse.width,
        indices=0 if operand.sparse is None else operand.sparse.indices,
    )


def _sums(updates: Sequence[Update]) -> tuple[SparseSum, ...]:
    return tuple(
        SparseSum(update.index, update.label, update.device, update.operand.format, update.operand.sparse)
        for update in updates
        if update.operand.sparse is not None and update.operand.size
    )


def _prologue(
    begin: Callable[..., Prologue], device: Device, measured: Sequence[Update], slots: Sequence[int]
) -> Prologue:
    """A device's prologue, which measures these updates' gradients, each with the slot of its first leaf."""
    operands = [(update.operand, slot) for update, slot in zip(measured, slots, strict=True)]
    gradients = [Gradient(one.address, one.size, one.format, one.walk, slot) for one, slot in operands]
    return begin(
        device=device,
        table=MeasureTable(gradients) if gradients else None,
        elements=sum(one.size for one in gradients),
        bytes_read=sum(one.size * one.format.itemsize for one in gradients),
    )


def _pointer_row(
    part: int,
    launch: int | None,
    pointers: NDArray[np.int64],
    members: Sequence[int],
    offsets: NDArray[np.int64] | int = 0,
) -> _PointerRow:
    return _PointerRow(part, launch, pointers, np.array(members, np.intp), np.broadcast_to(offsets, len(members)))
