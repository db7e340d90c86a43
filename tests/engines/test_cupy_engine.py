"""On a GPU: the CuPy engine returns the CPU engine's bits, on the caller's stream, with neither allocation nor synchronisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpu_adam.device import Device
from gpu_adam.dtypes import BFLOAT16, FLOAT32
from gpu_adam.engines import Engine, engine_named
from gpu_adam.kernels.abi import ROLES
from gpu_adam.kernels.rules.adam import A
from gpu_adam.kernels.specialization import Specialization
from tests.support.cuda_cpp import cases
from tests.support.cuda_cpp.cases import Case, Memory, Tensor, assert_same, run
from tests.support.cuda_cpp.instances import SPECIALIZATIONS
from tests.support.shipped import ADAM

pytestmark = pytest.mark.gpu
GPU = Device("cuda")


@pytest.fixture(scope="module")
def cupy() -> Any:
    return pytest.importorskip("cupy")


@pytest.fixture(scope="module")
def engine(cupy: Any) -> Engine:
    return engine_named("cupy")


class OnGpu:
    """A case's memory moved to the GPU: copies of its blocks at the same alignment, and its launches over them."""

    def __init__(self, case: Case, cupy: Any) -> None:
        self.case = case
        self.host = case.memory()
        self.blocks: list[list[Any]] = []
        pointers = []
        for memory in self.host:
            blocks = [None if block is None else cupy.asarray(block) for block in memory.blocks]
            pointers.append(
                [
                    0 if block is None or copy is None else copy.data.ptr + pointer - block.ctypes.data
                    for block, copy, pointer in zip(memory.blocks, blocks, memory.pointers, strict=True)
                ]
            )
            self.blocks.append(blocks)
        self.there = [
            Memory(memory.formats, memory.blocks, there) for memory, there in zip(self.host, pointers, strict=True)
        ]

    def result(self) -> Sequence[Memory]:
        return [
            Memory(memory.formats, [None if block is None else block.get() for block in blocks], memory.pointers)
            for memory, blocks in zip(self.host, self.blocks, strict=True)
        ]


def compare(case: Case, engine: Engine, cupy: Any, steps: int = 1) -> None:
    gpu = OnGpu(case, cupy)
    program = engine.load(case.launches(gpu.there, engine.multiprocessors(GPU)), GPU)
    for _ in range(steps):
        program.run(case.coefficients())
    assert_same(gpu.result(), run(case, engine_named("cpu"), steps))


@pytest.mark.parametrize("kind", SPECIALIZATIONS, ids=lambda kind: kind.name)
def test_every_kernel_returns_the_cpus_bits(kind: Specialization, engine: Engine, cupy: Any) -> None:
    rng = np.random.default_rng(len(kind.name))
    sizes = (1, 2, 3, 5, 255, 257, 5000, 65_537)
    if kind.family == "strided":
        tensors = tuple(Tensor(7 * n, walk=cases.strided(rng, (n, 7))) for n in sizes)
    else:
        tensors = tuple(Tensor(n, tuple(int(k) for k in rng.integers(0, 8, len(ROLES)) * (n % 2))) for n in sizes)
    compare(Case(kind, tensors, seed=1), engine, cupy)
    compare(Case(kind, tensors, seed=2, tame=True), engine, cupy, steps=5)


def test_many_tensors(engine: Engine, cupy: Any) -> None:
    kind = Specialization("multi_tensor", ADAM, BFLOAT16, BFLOAT16, True)
    compare(
        Case(kind, tuple(Tensor(1 + k % 700, (k % 8,) * len(ROLES)) for k in range(3000)), seed=4),
        engine,
        cupy,
        steps=2,
    )


def test_hundreds_of_steps_without_waiting(engine: Engine, cupy: Any) -> None:
    case = Case(Specialization("multi_tensor", ADAM, FLOAT32, FLOAT32, False), (Tensor(1 << 16),), seed=5, tame=True)
    results: list[Sequence[Memory]] = []
    gpu = OnGpu(case, cupy)
    host = case.memory()
    for on, launches in ((engine, case.launches(gpu.there)), (engine_named("cpu"), case.launches(host))):
        program = on.load(launches, Device(on.kind))
        for step in range(300):
            rows = case.coefficients()
            rows["float32"][:, A] *= np.float32(1 + step)
            program.run(rows)
            rows["float32"][:] = np.nan
        results.append(gpu.result() if on is engine else host)
    assert_same(*results)


def test_gradients_that_move(engine: Engine, cupy: Any) -> None:
    case = Case(
        Specialization("multi_tensor", ADAM, FLOAT32, FLOAT32, False), (Tensor(500), Tensor(37)), seed=6, tame=True
    )
    others = [replace(case, seed=20 + k) for k in range(50)]
    gpu, host = OnGpu(case, cupy), case.memory()
    on_gpu, on_host = [OnGpu(other, cupy) for other in others], [other.memory() for other in others]
    for on, memories, moved in ((engine, gpu.there, [o.there for o in on_gpu]), (engine_named("cpu"), host, on_host)):
        (launch,) = launches = case.launches(memories)
        assert launch.table is not None
        program = on.load(launches, Device(on.kind))
        for other in moved:
            launch.table.pointers[1] = [memory.pointers[1] for memory in other]
            program.rebind(0, 1)
            program.run(case.coefficients())
    assert_same(gpu.result(), host)


def test_streams(engine: Engine, cupy: Any) -> None:
    case = Case(Specialization("multi_tensor", ADAM, FLOAT32, FLOAT32, False), (Tensor(1 << 18),), seed=7, tame=True)
    gpu = OnGpu(case, cupy)
    cupy.cuda.Device().synchronize()
    program = engine.load(case.launches(gpu.there), GPU)
    for _ in range(10):
        # Each stream is destroyed while its work is under way.
        with cupy.cuda.Stream(non_blocking=True):
            program.run(case.coefficients())
        handle = cupy.cuda.Stream(non_blocking=True)
        program.run(case.coefficients(), handle.ptr)
    cupy.cuda.Device().synchronize()
    assert_same(gpu.result(), run(case, engine_named("cpu"), 20))


@pytest.mark.alone
def test_a_step_allocates_nothing(engine: Engine, cupy: Any) -> None:
    case = Case(Specialization("multi_tensor", ADAM, FLOAT32, FLOAT32, False), (Tensor(1 << 16),), seed=8)
    gpu = OnGpu(case, cupy)
    program = engine.load(case.launches(gpu.there), GPU)
    program.run(case.coefficients())
    cupy.cuda.Device().synchronize()
    free, _ = cupy.cuda.runtime.memGetInfo()
    used = cupy.get_default_memory_pool().total_bytes()
    for _ in range(100):
        program.run(case.coefficients())
    cupy.cuda.Device().synchronize()
    assert cupy.get_default_memory_pool().total_bytes() == used
    assert cupy.cuda.runtime.memGetInfo()[0] == free


def test_a_capture_is_refused(engine: Engine, cupy: Any) -> None:
    case = Case(Specialization("multi_tensor", ADAM, FLOAT32, FLOAT32, False), (Tensor(100),), seed=9)
    gpu = OnGpu(case, cupy)
    program = engine.load(case.launches(gpu.there), GPU)
    program.run(case.coefficients())
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="cannot be captured"):
            program.run(case.coefficients())
        stream.end_capture()


def test_memory_goes_up_and_comes_down(engine: Engine) -> None:
    memory = engine.allocate(GPU, 64)
    assert memory.address % 256 == 0
    engine.upload(memory, 16, np.arange(4, dtype=np.float32))
    assert engine.download(memory, 0, 64).view(np.float32).tolist() == [0.0] * 4 + [0.0, 1.0, 2.0, 3.0] + [0.0] * 8
