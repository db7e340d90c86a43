"""The numba engine on a GPU: the bits of the CPU engine, on the caller's stream, with nothing allocated and nothing waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FORMATS
from gpu_adam.engines import Engine, engine_named
from gpu_adam.plan.launches import Task
from gpu_adam.plan.policy import Policy
from gpu_adam.plan.scheduling import launches_of
from gpu_adam.strides import Walk
from tests.engines.arena import CPU, GPU, KINDS, SIZES, Arena, agree, coefficients, contiguous
from tests.support.shipped import RULES
from tests.support.tensor_kinds import Kind

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def numba() -> Engine:
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    return engine_named("numba")


# ---- Bits ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_has_the_bits_of_the_cpu(numba: Engine, kind: Kind) -> None:
    arena = Arena(KINDS.index(kind))
    for k, size in enumerate(SIZES):
        arena.add(kind, contiguous(size), param_off=k % 8, grad_off=k * 3 % 8, row=k % 3)
    arena.add(kind, contiguous(10_007), flat=True, row=1)
    arena.add(kind, Walk((130,), (-3,), (2,)), row=2)
    arena.add(kind, Walk((20, 3, 5, 7), (150, -50, 7, 1), (1, 20, 60, 300)))
    arena.add(kind, Walk((), (), ()))
    agree(numba, arena, rows=3)


@pytest.mark.parametrize("param_off", range(4))
@pytest.mark.parametrize("grad_off", range(4))
def test_every_alignment(numba: Engine, param_off: int, grad_off: int) -> None:
    arena = Arena(param_off * 4 + grad_off)
    for size in (1, 3, 4, 5, 37, 4097):
        arena.add(Kind(FLOAT32, FLOAT32, False, "adam"), contiguous(size), param_off=param_off, grad_off=grad_off)
        arena.add(
            Kind(FLOAT32, FLOAT32, False, "adam"),
            contiguous(size), param_off=param_off, grad_off=grad_off, flat=True,
        )  # fmt: skip
    agree(numba, arena)


@pytest.mark.parametrize("chunk", [1024, 65_536])
def test_the_chunks_do_not_change_the_bits(numba: Engine, chunk: int) -> None:
    arena = Arena(chunk)
    for n in (1_000_003, 5, 100_000):
        arena.add(Kind(BFLOAT16, BFLOAT16, True, "adam"), contiguous(n), param_off=3, grad_off=1)
    agree(numba, arena, policy=Policy(min_chunk=chunk, max_chunk=chunk))


def test_ten_thousand_tensors_are_one_launch(numba: Engine) -> None:
    arena = Arena(7)
    for n in range(10_000):
        arena.add(Kind(FLOAT32, FLOAT32, False, "adam"), contiguous(1 + n % 50), row=n % 3)
    assert len(arena.launches(1 << 20, GPU, numba, numba.policy)) == 1
    agree(numba, arena, rows=3)


@pytest.mark.slow
@pytest.mark.alone
def test_more_than_two_to_the_31_elements(numba: Engine) -> None:
    """The last elements, whose indices do not fit 32 bits, against the same few elements by themselves."""
    from numba import cuda

    size, tail = (1 << 31) + 5, 4096
    if cuda.current_context().get_memory_info().free < 13 * size:
        pytest.skip("needs 28 GB of free GPU memory")
    sizes = {"param": 2, "grad": 2, "state0": 4, "state1": 4}
    memories = {role: numba.allocate(GPU, size * itemsize) for role, itemsize in sizes.items()}
    random = np.random.default_rng(0)
    images = {
        "param": random.normal(size=tail).astype(np.float16),
        "grad": random.normal(size=tail).astype(np.float16),
        "state0": random.normal(size=tail).astype(np.float32),
        "state1": np.abs(random.normal(size=tail)).astype(np.float32),
    }
    for role, image in images.items():
        numba.upload(memories[role], (size - tail) * sizes[role], image)
    pointers = (*(memory.address for memory in memories.values()), 0, 0, 0)
    about = {
        "index": 0,
        "label": "large",
        "phase": 0,
        "row": 0,
        "flat": False,
        "param": FLOAT16,
        "grad": FLOAT16,
        "master": False,
        "rule": RULES["adam"],
    }
    task = Task(**about, size=size, walk=contiguous(size), pointers=pointers)
    numba.load(launches_of([task], GPU, numba.multiprocessors(GPU), numba.policy), GPU).run(coefficients(0))

    pointers = (*(image.ctypes.data for image in images.values()), 0, 0, 0)
    task = Task(**about, size=tail, walk=contiguous(tail), pointers=pointers)
    cpu = engine_named("cpu")
    cpu.load(launches_of([task], CPU, cpu.multiprocessors(CPU), cpu.policy), CPU).run(coefficients(0))
    for role, image in images.items():
        found = numba.download(memories[role], (size - tail) * sizes[role], image.nbytes).view(image.dtype)
        np.testing.assert_array_equal(found, image, role)


# ---- Memory, streams, pointers ------------------------------------------------------------------------------------------------------


def test_memory_is_zero_and_aligned(numba: Engine) -> None:
    for nbytes in (0, 1, 1000, 1 << 20):
        memory = numba.allocate(GPU, nbytes)
        assert memory.address % 256 == 0
        assert not numba.download(memory, 0, nbytes).any()
    numba.upload(memory, 12, np.arange(5))
    assert numba.download(memory, 12, 40).view(np.int64).tolist() == [0, 1, 2, 3, 4]


@dataclass
class Running:
    """A program over one tensor of 1,000 elements, and its memory."""

    memory: Any
    program: Any
    launches: Any


@pytest.fixture
def running(numba: Engine) -> Running:
    memory = numba.allocate(GPU, 5 * 4096)
    for k, value in enumerate((1.0, 0.5, 0.0, 0.0, -0.5)):
        numba.upload(memory, 4096 * k, np.full(1000, value, np.float32))
    pointers = (*(memory.address + 4096 * k for k in range(4)), 0, 0, 0)
    task = Task(
        index=0, label="one", size=1000, phase=0, walk=contiguous(1000), row=0, flat=False, param=FLOAT32, grad=FLOAT32,
        master=False, rule=RULES["adam"], pointers=pointers,
    )  # fmt: skip
    launches = launches_of([task], GPU, numba.multiprocessors(GPU), numba.policy)
    return Running(memory, numba.load(launches, GPU), launches)


def parameter(numba: Engine, running: Running, stream: int | None = None) -> Any:
    return numba.download(running.memory, 0, 4000, stream).view(np.float32)


def test_steps_follow_each_other_on_any_streams(numba: Engine, running: Running) -> None:
    from numba import cuda

    streams = [cuda.stream(), cuda.stream()]
    handles = [int(stream.handle) for stream in streams] + [None]
    for step in range(90):
        running.program.run(coefficients(step), handles[step % 3])
    found = parameter(numba, running, handles[89 % 3])
    numba.upload(running.memory, 0, np.full(1000, 1.0, np.float32))
    numba.upload(running.memory, 2 * 4096, np.zeros(2048, np.float32))
    for step in range(90):
        running.program.run(coefficients(step))
    np.testing.assert_array_equal(found, parameter(numba, running))


def test_new_pointers_are_taken_up(numba: Engine, running: Running) -> None:
    running.program.run(coefficients(0))
    down = parameter(numba, running)
    assert (down < 1).all()
    running.launches[0].table.pointers[1] = running.memory.address + 4 * 4096
    running.program.rebind(0, 1)
    for step in range(1, 9):
        running.program.run(coefficients(step))
    assert (parameter(numba, running) > down).all()


@pytest.mark.alone
def test_a_step_allocates_nothing(numba: Engine, running: Running) -> None:
    from numba import cuda

    running.program.run(coefficients(0))
    cuda.synchronize()
    free = cuda.current_context().get_memory_info().free
    for step in range(100):
        running.program.rebind(0, 1)
        running.program.run(coefficients(step))
    cuda.synchronize()
    assert cuda.current_context().get_memory_info().free == free


def test_the_callers_context_stays(numba: Engine, running: Running) -> None:
    from cuda.bindings import driver

    before = driver.cuCtxGetCurrent()[1]
    running.program.run(coefficients(0))
    assert int(driver.cuCtxGetCurrent()[1]) == int(before)


def test_a_capture_is_refused(running: Running) -> None:
    from cuda.bindings import driver
    from numba import cuda

    stream = cuda.stream()
    driver.cuStreamBeginCapture(stream.handle, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    try:
        with pytest.raises(RuntimeError, match="captured"):
            running.program.run(coefficients(0), int(stream.handle))
    finally:
        driver.cuStreamEndCapture(stream.handle)


# ---- The optimizer ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True])
def test_device_arrays_are_updated_in_place(pack: bool) -> None:
    from numba import cuda

    from gpu_adam import GpuAdam

    random = np.random.default_rng(0)
    hosts = [random.normal(size=shape).astype(np.float32) for shape in ((100, 7), (3,), (1025,))]
    gradients = [random.normal(size=host.shape).astype(np.float32) for host in hosts]
    devices = [cuda.to_device(host) for host in hosts]
    options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True, "pack": pack}
    on_cpu, on_gpu = GpuAdam(hosts, engine="cpu", **options), GpuAdam(devices, engine="numba", **options)
    for _ in range(5):
        on_cpu.step(gradients)
        on_gpu.step([cuda.to_device(gradient) for gradient in gradients])
    for found, expected in zip(on_gpu.params, on_cpu.params, strict=True):
        np.testing.assert_array_equal(found.copy_to_host(), expected)


def test_float64_parameters_take_any_gradient(numba: Engine) -> None:
    arena = Arena(11)
    for grad in FORMATS:
        arena.add(Kind(FLOAT64, grad, False, "adam_amsgrad"), contiguous(333), grad_off=1)
    agree(numba, arena, steps=20)
