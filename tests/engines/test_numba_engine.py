"""The numba engine on a GPU: the bits of the CPU engine, on the caller's stream, with nothing allocated and nothing waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gpu_adam.device import Device
from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FORMATS, Format
from gpu_adam.engines import Engine, engine_named
from gpu_adam.kernels.abi import AVERAGE, DECOUPLED, L2, ROW_WORDS, SCALE, SHRINK, VECTOR_BYTES, WEIGHT_DECAY
from gpu_adam.kernels.rules.adam import EPS, R2, W1, W2, A
from gpu_adam.plan.launches import Launch, Task
from gpu_adam.plan.policy import Policy
from gpu_adam.plan.scheduling import launches_of
from gpu_adam.strides import Walk, walk
from tests.support.shipped import RULES, formats_of

pytestmark = pytest.mark.gpu

GPU, CPU = Device("cuda", 0), Device("cpu")
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 255, 256, 257, 1023, 65_535, 65_537)
SPECIAL = (0.0, -0.0, 1e-45, -1e-40, 6e-8, 1.17e-38, 3.3e38, 65_504.0, np.inf, -np.inf, np.nan, 1.0, -1.0)


@pytest.fixture(scope="module")
def numba() -> Engine:
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    return engine_named("numba")


@dataclass(frozen=True)
class Kind:
    """What a tensor is made of."""

    param: Format
    grad: Format
    master: bool
    rule: str
    average: bool = False

    def __str__(self) -> str:
        master, average = "-master" if self.master else "", "-average" if self.average else ""
        return f"{self.rule}-{self.param}-{self.grad}{master}{average}"


KINDS = [
    Kind(param, grad, master, rule, average)
    for rule in RULES
    for param, grad, master in formats_of(RULES[rule], "multi_tensor")
    for average in ((False, True) if param is grad else (False,))
]


class Arena:
    """Tensors in one stretch of memory, the same on any engine: places are offsets, and numbers come from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._image = bytearray()
        self._streams: list[tuple[int, Format, int]] = []
        self._tasks: list[tuple[dict[str, Any], tuple[int, ...]]] = []

    def add(
        self, kind: Kind, journey: Walk, *, param_off: int = 0, grad_off: int = 0, row: int = 0, flat: bool = False
    ) -> None:
        size = int(np.prod(journey.shape, dtype=np.int64))
        phase = param_off % (VECTOR_BYTES // kind.param.itemsize) if journey.contiguous and not flat else 0
        working = kind.param.working
        states = len(RULES[kind.rule].states)
        places = [
            self._stream(kind.param, journey.shape, journey.param, param_off),
            self._stream(kind.grad, journey.shape, journey.grad, grad_off),
            *(self._stream(working, (size,), (1,), phase, positive=s > 0) for s in range(states)),
            *(-1,) * (3 - states),
            self._stream(FLOAT32, (size,), (1,), phase) if kind.master else -1,
            self._stream(working, (size,), (1,), phase) if kind.average else -1,
        ]
        about = {
            "index": len(self._tasks), "label": str(kind), "size": size, "phase": phase, "walk": journey, "row": row, "flat": flat,
            "param": kind.param, "grad": kind.grad, "master": kind.master, "average": kind.average, "rule": RULES[kind.rule],
        }  # fmt: skip
        self._tasks.append((about, tuple(places)))

    def _stream(
        self, format: Format, sizes: Sequence[int], strides: Sequence[int], off: int, *, positive: bool = False
    ) -> int:
        reach = [(n - 1) * stride for n, stride in zip(sizes, strides, strict=True)]
        low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
        count = high - low + 1
        numbers = self._random.normal(size=count) * 10.0 ** self._random.integers(-8, 3, count)
        special = self._random.random(count) < 0.05
        numbers[special] = self._random.choice(SPECIAL, int(special.sum()))
        begin = len(self._image) + off * format.itemsize
        with np.errstate(all="ignore"):
            stored = (np.abs(numbers) if positive else numbers).astype(format.dtype)
        self._image += bytes(off * format.itemsize) + stored.tobytes()
        # A gap behind each stream that must stay zero, and a boundary for the next.
        self._image += bytes(64 + -len(self._image) % 64)
        self._streams.append((begin, format, count))
        return begin - low * format.itemsize

    def launches(self, address: int, device: Device, engine: Engine, policy: Policy) -> tuple[Launch, ...]:
        tasks = [
            Task(**about, pointers=tuple(address + place if place >= 0 else 0 for place in places))
            for about, places in self._tasks
        ]
        return launches_of(tasks, device, engine.multiprocessors(device), policy)

    def run(self, engine: Engine, device: Device, steps: int, rows: int = 1, policy: Policy | None = None) -> Any:
        """The memory after some steps."""
        memory = engine.allocate(device, len(self._image))
        engine.upload(memory, 0, np.frombuffer(bytes(self._image), np.uint8))
        program = engine.load(self.launches(memory.address, device, engine, policy or engine.policy), device)
        for step in range(steps):
            program.run(coefficients(step, rows))
        return engine.download(memory, 0, len(self._image))

    def compare(self, found: Any, expected: Any) -> None:
        """Every bit, but for those of a NaN, whose payload and sign IEEE 754 leaves open."""
        for number, (begin, format, count) in enumerate(self._streams):
            a, b = (x[begin : begin + count * format.itemsize].view(format.dtype) for x in (found, expected))
            bits = f"u{format.itemsize}"
            with np.errstate(all="ignore"):
                both_nan = (a != a) & (b != b)
            wrong = np.flatnonzero((a.view(bits) != b.view(bits)) & ~both_nan)
            assert not wrong.size, f"stream {number}: element {wrong[0]} is {a[wrong[0]]!r}, not {b[wrong[0]]!r}"
            found[begin : begin + a.nbytes] = expected[begin : begin + a.nbytes] = 0
        np.testing.assert_array_equal(found, expected, "something beside the tensors was written")


def coefficients(step: int, rows: int = 1) -> dict[str, Any]:
    numbers = np.zeros((rows, ROW_WORDS))
    k = np.arange(rows)
    numbers[:, SCALE] = np.where(k % 2, -1, 1)
    numbers[:, L2] = k % 3 == 1
    numbers[:, DECOUPLED] = k % 3 == 2
    numbers[:, [WEIGHT_DECAY, SHRINK, AVERAGE]] = 0.01, -1e-5, 0.25
    numbers[:, [W1, W2, R2, EPS]] = 0.1, 0.001, 1 / np.sqrt(1 - 0.999 ** (step + 1)), 1e-8
    numbers[:, A] = -1e-3 / (1 - 0.9 ** (step + 1))
    return {"float64": numbers, "float32": numbers.astype(np.float32)}


def agree(engine: Engine, arena: Arena, *, steps: int = 3, rows: int = 1, policy: Policy | None = None) -> None:
    arena.compare(
        arena.run(engine, GPU, steps, rows, policy), arena.run(engine_named("cpu"), CPU, steps, rows)
    )  # fmt: skip


def contiguous(size: int) -> Walk:
    return walk((size,), (1,), (1,))


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
