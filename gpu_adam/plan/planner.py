"""From updates to a plan and its tables: a function of shapes, formats, addresses, groups, step counts and machines, and of nothing else.

Nothing is compiled here and nothing is on a device, so a plan can be printed, compared and tested anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..device import Device
from ..kernels.abi import ROLES
from ..kernels.rules.rule import Rule
from .cohorts import Cohort, Mode, cohorts_of, records_of
from .launches import Plan, SparseSum, Task
from .layout import Bucket
from .packing import merge_packed
from .presence import Measured, Presence
from .prologue import Prologue, SettingsLayout
from .scheduling import launches_of
from .step_plan import Part, PointerRow, StepPlan
from .tables import Gradient, MeasureTable
from .updates import Machine, Update

_GRAD = ROLES.index("grad")


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
) -> PointerRow:
    return PointerRow(part, launch, pointers, np.array(members, np.intp), np.broadcast_to(offsets, len(members)))
