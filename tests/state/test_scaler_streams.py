"""Steps with a loss scaler of PyTorch's kind, whose numbers lie on the GPU, on GPUs made of host memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_adam.device import Device
from gpu_adam.engines.cuda.program import GpuProgram
from tests.state import streamed
from tests.state.streamed import SIDE, Streamed
from tests.support.cuda_cpp import build

pytest_plugins = ("tests.support.cuda_cpp.fixtures",)
pytestmark = pytest.mark.skipif(build.missing is not None, reason=str(build.missing))

host = streamed.host


class Pool:
    """Numbers on the GPU as PyTorch's allocator gives them out: of the memory that nobody holds, that of the lowest address."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self.memory = host.engine.allocate(Device("cuda"), 4096)
        self.free = list(range(0, 4096, 512))

    def number(self, value: float) -> Any:
        offset = self.free.pop(0)
        self.host.engine.upload(self.memory, offset, np.array([value], np.float32))
        return Number(self, offset)


class Number:
    def __init__(self, pool: Pool, offset: int) -> None:
        self.pool, self.offset = pool, offset
        self.shape = ()
        self.device = SimpleNamespace(id=0)
        data = (pool.memory.address + offset, False)
        self.__cuda_array_interface__ = {
            "shape": (), "typestr": "<f4", "data": data, "version": 3, "strides": None
        }  # fmt: skip

    def __del__(self) -> None:
        self.pool.free = sorted([*self.pool.free, self.offset])


def given(optimizer: Any, pool: Pool, infinite: bool) -> None:
    """What PyTorch's GradScaler does before a step: two new tensors."""
    optimizer.grad_scale = pool.number(8.0)
    optimizer.found_inf = pool.number(float(infinite))


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("limit", [None, 3.0])
def test_steps_with_a_scaler_send_nothing_but_the_gradients_addresses(
    host: Any, limit: float | None, capturable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Streamed(host, capturable=capturable, max_grad_norm=limit)
    pool = Pool(host)
    sent = []
    instruct = GpuProgram.instruct
    monkeypatch.setattr(GpuProgram, "instruct", lambda *given: (sent.append(given), instruct(*given)))
    for k in range(12):
        gradients = pair.gradients()
        pair.kept.append(pair.up(gradients))
        infinite = k % 5 == 3
        given(pair.on_gpu, pool, infinite)
        pair.on_gpu.step(pair.kept[-1])
        del pair.on_gpu.grad_scale, pair.on_gpu.found_inf
        host.engine.finish()
        if not infinite:
            pair.on_cpu.step([g / g.dtype.type(8) for g in gradients])
    assert len(sent) == 1  # in the first step
    assert sorted(pool.free) == list(range(0, 4096, 512))  # nobody holds one
    if limit is None:
        pair.check()


def test_what_another_stream_reads_is_held_until_the_next_step(host: Any) -> None:
    pair, pool = Streamed(host), Pool(host)
    for _ in range(2):
        pair.kept.append(pair.up(pair.gradients()))
        given(pair.on_gpu, pool, False)
        pair.on_gpu.step(pair.kept[-1], stream=SIDE)
        del pair.on_gpu.grad_scale, pair.on_gpu.found_inf
        assert len(pool.free) == 6
    pair.on_gpu.step(pair.kept[-1], grad_scale=2.0)
    assert len(pool.free) == 8
