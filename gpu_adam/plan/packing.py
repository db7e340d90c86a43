"""Which tensors of a step lie one after the other in the buckets, so that one flat launch updates them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..strides import Walk
from .launches import Task
from .layout import ALIGNMENT
from .updates import Update

Pair = tuple[Task, Update]


def merge_packed(pairs: Sequence[Pair]) -> list[Task]:
    """The tasks, those that follow each other in a bucket of parameters and gradients made one flat stretch.

    Only where every bucket's row of coefficients becomes a single stretch; where gaps would make more, the tensors stay as they
    are and share one multi-tensor launch.

    Args:
        pairs: Each task with the update that it is of.
    """
    apart: list[Task] = []
    runs: list[list[Pair]] = []
    last: dict[tuple[int, int], list[Pair]] = {}
    for pair in pairs:
        task, update = pair
        if task.size == 0 or not _lies_in_bucket(update):
            apart.append(task)
            continue
        key = (update.bucket, task.row)
        run = last.get(key)
        if run is not None and _continues(run[-1][1], update):
            run.append(pair)
        else:
            last[key] = [pair]
            runs.append(last[key])
    if len(runs) > len(last):
        return [task for task, _ in pairs]
    return [*apart, *map(_flat, runs)]


def _lies_in_bucket(update: Update) -> bool:
    return update.is_home and update.operand.format is update.format and update.operand.walk.contiguous


def _continues(before: Update, after: Update) -> bool:
    end = before.segment.offset + -(-before.segment.size // ALIGNMENT) * ALIGNMENT
    return end == after.segment.offset


def _flat(run: Sequence[Pair]) -> Task:
    (task, first), (_, last) = run[0], run[-1]
    size = last.segment.start + last.operand.size - first.segment.start
    label = f"{len(run):,} packed tensors"
    return replace(task, label=label, size=size, walk=Walk((size,), (1,), (1,)), flat=True)
