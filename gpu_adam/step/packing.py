"""Which tensors of a step lie one after the other in the buckets, so that one flat launch updates them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..plan.launches import Task
from ..plan.layout import ALIGNMENT
from ..state.parameter import Placed
from ..strides import Walk


def merge_packed(tasks: Sequence[Task], params: Mapping[int, Placed]) -> list[Task]:
    """The tasks, those that follow each other in a bucket of parameters and gradients made one flat stretch.

    Only where every bucket's row of coefficients becomes a single stretch; where gaps would make more, the tensors stay as they
    are and share one multi-tensor launch.
    """
    apart: list[Task] = []
    runs: list[list[Task]] = []
    last: dict[tuple[int, int], list[Task]] = {}
    for task in tasks:
        placed = params[task.index]
        if task.size == 0 or not _in_bucket(task, placed):
            apart.append(task)
            continue
        key = (id(placed.state), task.row)
        run = last.get(key)
        if run is not None and _continues(run[-1], task, params):
            run.append(task)
        else:
            last[key] = [task]
            runs.append(last[key])
    if len(runs) > len(last):
        return list(tasks)
    return [*apart, *(_flat(run, params) for run in runs)]


def _in_bucket(task: Task, placed: Placed) -> bool:
    bound = (placed.address("param"), placed.address("grad"))
    return placed.has("param") and task.pointers[:2] == bound and task.grad is task.param and task.walk.contiguous


def _continues(last: Task, task: Task, params: Mapping[int, Placed]) -> bool:
    before, after = params[last.index], params[task.index]
    end = before.segment.offset + -(-before.segment.size // ALIGNMENT) * ALIGNMENT
    return before.state is after.state and last.row == task.row and end == after.segment.offset


def _flat(run: Sequence[Task], params: Mapping[int, Placed]) -> Task:
    first, last = run[0], run[-1]
    size = params[last.index].segment.start + last.size - params[first.index].segment.start
    label = f"{len(run):,} packed tensors"
    return replace(first, label=label, size=size, walk=Walk((size,), (1,), (1,)), flat=True)
