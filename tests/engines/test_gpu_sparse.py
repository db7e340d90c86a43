"""Gradients of rows on the GPU engines: rows of the same number are summed, then the rows that came are updated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpu_adam.device import Device
from gpu_adam.dtypes import BFLOAT16, FLOAT32
from gpu_adam.engines import Memory, SumArguments
from gpu_adam.engines.cuda.engine import GpuEngine
from gpu_adam.kernels.abi import WORD
from gpu_adam.plan.policy import GPU_POLICY
from gpu_adam.plan.scheduling import launches_of
from gpu_adam.strides import Walk
from tests.support import gpu_rigs
from tests.support.gpu_rigs import CAPACITY, COUNT, LIMIT, ROOM, WIDTH, Array, Host, Problem, row_task

rig, host, host_kernels = gpu_rigs.rig, gpu_rigs.host, gpu_rigs.host_kernels


class Embedding:
    """A matrix, some of whose rows have a gradient."""

    def __init__(self, engine: GpuEngine[Any]) -> None:
        self.engine = engine
        device = Device("cuda")
        rng = np.random.default_rng(3)
        self.rows = rng.integers(-2, LIMIT + 2, COUNT)
        self.rows[:4] = 7, 3, 7, 3
        self.values = rng.integers(-9, 10, (COUNT, WIDTH)).astype(BFLOAT16.dtype)
        self.start = rng.normal(size=(LIMIT, WIDTH)).astype(np.float32)
        order = np.argsort(self.rows, kind="stable")
        self.given = [self._up(device, data) for data in (self.values, order, self.rows[order])]
        self.matrix = engine.allocate(device, 3 * ROOM)
        engine.upload(self.matrix, 0, self.start)
        self.sums = engine.allocate(device, CAPACITY * WIDTH * 4)
        self.indices = engine.allocate(device, CAPACITY * WORD)
        task = row_task(self.matrix.address, self.sums.address, self.indices.address)
        self.program = engine.load(launches_of([task], device, 4, GPU_POLICY), device)

    def _up(self, device: Device, data: Array) -> Memory:
        memory = self.engine.allocate(device, data.nbytes)
        self.engine.upload(memory, 0, np.ascontiguousarray(data))
        return memory

    def coalesce(self, stream: int | None) -> None:
        values, order, ranked = (memory.address for memory in self.given)
        to = (self.sums.address, self.indices.address)
        sums = SumArguments(values, BFLOAT16, FLOAT32, *to, WIDTH, COUNT, CAPACITY, order, ranked, LIMIT)
        self.engine.coalesce(sums, stream)

    def gradient(self) -> Array:
        """The same, as a gradient of the whole matrix."""
        dense = np.zeros((LIMIT, WIDTH), np.float32)
        inside = (self.rows >= 0) & (self.rows < LIMIT)
        np.add.at(dense, self.rows[inside], self.values[inside].astype(np.float32))
        return dense


def test_rows_are_summed_and_updated(rig: Any) -> None:
    one = Embedding(rig.engine)
    streams = [rig.stream(), rig.stream()]
    rows = Problem(rig.engine, measures=False).rows(1)
    for k in range(5):
        one.coalesce(streams[k % 2])
        one.program.run(rows, streams[k % 2])
    found = rig.engine.download(one.matrix, 0, 3 * ROOM)

    dense = one.gradient()
    touched = np.zeros(LIMIT, bool)
    touched[one.rows[(one.rows >= 0) & (one.rows < LIMIT)]] = True
    memory = rig.engine.allocate(Device("cuda"), 4 * ROOM)
    rig.engine.upload(memory, 0, one.start)
    rig.engine.upload(memory, 3 * ROOM, dense)
    at = memory.address
    task = replace(
        row_task(at, 0, 0), size=LIMIT * WIDTH, walk=Walk((LIMIT * WIDTH,), (1,), (1,)), width=0, indices=0,
        pointers=(at, at + 3 * ROOM, at + ROOM, at + 2 * ROOM, 0, 0, 0),
    )  # fmt: skip
    program = rig.engine.load(launches_of([task], Device("cuda"), 4, GPU_POLICY), Device("cuda"))
    for _ in range(5):
        program.run(rows)
    wanted = rig.engine.download(memory, 0, 3 * ROOM)
    for part in range(3):
        nbytes = LIMIT * WIDTH * 4
        a, b = (x[part * ROOM :][:nbytes].view(np.float32).reshape(LIMIT, WIDTH) for x in (found, wanted))
        np.testing.assert_array_equal(a[touched], b[touched])
        np.testing.assert_array_equal(a[~touched], one.start[~touched] if part == 0 else 0)


def test_sums_wait_for_the_step_that_reads_the_last_ones(host: Host) -> None:
    one = Embedding(host.engine)
    rows = Problem(host.engine, measures=False).rows(1)
    one.coalesce(1)
    one.program.run(rows, 1)
    one.coalesce(2)
    waiting = host.engine.binding.streams.queues
    assert waiting[1]
    host.engine.binding.streams.finish(2)
    assert not waiting[1]


def test_sums_go_to_memory_of_the_engine(rig: Any) -> None:
    with pytest.raises(ValueError, match="memory that this engine has allocated"):
        rig.engine.coalesce(SumArguments(0, FLOAT32, FLOAT32, 12345, 0, 1, 1, 1, 0, 0, 1))
