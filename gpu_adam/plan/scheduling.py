"""From tasks to launches: which kernels are called, over which chunks, in which grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..device import Device
from ..kernels.abi import MAX_DIMS, ROW_THREADS, WALK_SIZES
from ..kernels.specialization import Specialization, blocks_of_rows
from .launches import Launch, Task
from .policy import Geometry, Policy
from .tables import Table


def launches_of(tasks: Sequence[Task], device: Device, processors: int, policy: Policy) -> tuple[Launch, ...]:
    """The launches for these tasks on one device: one for each stretch of a bucket, one for each kernel that tensors need.

    Args:
        tasks: What is to be updated; empty tasks are left out.
        device: Where.
        processors: The device's multiprocessors (or CPU threads).
        policy: The launch geometries.
    """
    tasks = [task for task in tasks if task.size]
    kinds: dict[Specialization, list[Task]] = {}
    launches = []
    for task in tasks:
        if task.width:
            launches.append(_rows_launch(task, device, policy))
        elif task.flat:
            launches.append(_flat_launch(task, device, processors, policy))
        else:
            kinds.setdefault(task.specialization, []).append(task)
    work = sum(task.size for members in kinds.values() for task in members)
    chunk = policy.chunk(work, processors)
    launches.extend(
        _multi_tensor_launch(kind, members, device, processors, policy.geometry(kind.param), chunk)
        for kind, members in kinds.items()
    )
    return tuple(launches)


def _flat_launch(task: Task, device: Device, processors: int, policy: Policy) -> Launch:
    kind = task.specialization
    geometry = policy.geometry(kind.param)
    chunk = geometry.threads * geometry.vectors * kind.lanes
    grid = geometry.grid(-(-task.size // chunk), processors)
    return Launch(kind, device, grid, geometry, chunk, task.size, (task,), None)


def _rows_launch(task: Task, device: Device, policy: Policy) -> Launch:
    kind, width = task.specialization, task.width
    geometry = replace(policy.geometry(kind.param), threads=ROW_THREADS, blocks=0)
    grid = blocks_of_rows(task.size // width, task.log2_tile)
    chunk = width * (ROW_THREADS >> task.log2_tile)
    return Launch(kind, device, grid, geometry, chunk, task.size, (task,), None)


def _multi_tensor_launch(
    kind: Specialization, tasks: Sequence[Task], device: Device, processors: int, geometry: Geometry, chunk: int
) -> Launch:
    # Where a block handles more in one go than a chunk has, part of its threads would have nothing to do.
    chunk = max(chunk, geometry.threads * kind.lanes)
    sizes = np.array([task.size for task in tasks], np.int64)
    strided = kind.family == "strided"
    phases = np.array([0 if strided else task.phase for task in tasks], np.int64)
    counts = -(-(phases + sizes) // chunk)
    table = Table(len(tasks), int(counts.sum()), strided=strided)
    table.begins[:] = phases
    table.ends[:] = phases + sizes
    table.rows[:] = [task.row for task in tasks]
    table.pointers[:] = np.array([task.pointers for task in tasks], np.int64).T
    for stream in kind.streams:
        # They count from the vector boundary before the first element.
        table.pointers[stream.row] -= phases * stream.storage.itemsize
    table.chunk_segments[:] = np.repeat(np.arange(len(tasks)), counts)
    firsts = np.repeat(np.cumsum(counts) - counts, counts)
    table.chunk_starts[:] = (np.arange(table.chunks) - firsts) * chunk
    for words, task in zip(table.walks, tasks, strict=False):
        dims = len(task.walk.shape)
        words[0] = dims
        for k, numbers in enumerate((task.walk.shape, task.walk.param, task.walk.grad)):
            words[WALK_SIZES + k * MAX_DIMS :][:dims] = numbers
    grid = geometry.grid(table.chunks, processors)
    return Launch(kind, device, grid, geometry, chunk, int(sizes.sum()), tuple(tasks), table)
