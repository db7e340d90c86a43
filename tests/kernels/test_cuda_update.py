"""The shipped CUDA C++ updates, run on the CPU, return the CPU engine's bits, and touch nothing else.

The kernels are launched by the GPU engines' own code, above a GPU made of host memory (`cuda_cpp.host_gpu`), so its tables, arguments,
staging and order of streams are tested with them.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_adam.device import Device
from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32
from gpu_adam.engines import Engine
from gpu_adam.kernels.abi import ROLES
from gpu_adam.kernels.rules import adam
from gpu_adam.kernels.specialization import Specialization
from gpu_adam.plan.launches import Launch
from gpu_adam.plan.policy import Geometry, Policy
from tests.support.cuda_cpp import build, cases
from tests.support.cuda_cpp.cases import Case, Tensor, assert_same, device_of, finish, run
from tests.support.cuda_cpp.host_gpu import HostEngine
from tests.support.cuda_cpp.instances import OTHER_GEOMETRIES, SPECIALIZATIONS
from tests.support.shipped import ADAM, AMSGRAD

pytest_plugins = ("tests.support.cuda_cpp.fixtures",)
pytestmark = pytest.mark.skipif(build.missing is not None, reason=str(build.missing))

SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 31, 36, 255, 256, 257, 1023, 1024, 1025, 2049, 5000])
OFFSETS = st.tuples(*[st.integers(0, 7)] * len(ROLES))
FEW = [kind for kind in SPECIALIZATIONS if kind.rule is AMSGRAD and kind.grad is kind.param]
"""Of every family, with and without a master copy and an average, in every format."""


def compare(case: Case, cuda: HostEngine, cpu: Engine, steps: int = 1) -> None:
    assert_same(run(case, cuda, steps), run(case, cpu, steps))


# ---- One case for every kernel, and generated ones


@pytest.mark.parametrize("kind", SPECIALIZATIONS, ids=lambda kind: kind.name)
def test_every_kernel_returns_the_cpus_bits(kind: Specialization, cuda: HostEngine, cpu: Engine) -> None:
    tensors = some(kind, np.random.default_rng(len(kind.name)))
    compare(Case(kind, tensors, seed=len(kind.name)), cuda, cpu)
    compare(Case(kind, tensors, seed=1, tame=True), cuda, cpu, steps=3)


def some(kind: Specialization, rng: np.random.Generator) -> tuple[Tensor, ...]:
    """Tensors of many sizes, aligned and not; matrices of many widths for a gradient of rows, so that tiles of every size come up.

    Of narrow ones there are more rows than a block has tiles.
    """
    if kind.family == "rows":
        widths = (1, 2, 3, 7, 12, 30, 64, 129, 384, 1000, 4096)
        offsets = [tuple(int(k) for k in rng.integers(0, 4, len(ROLES)) * (n % 2)) for n in widths]
        heights = [400 if width < 4 else 9 for width in widths]
        return tuple(
            cases.some_rows(rng, width, n, n - 3, at) for width, n, at in zip(widths, heights, offsets, strict=True)
        )
    sizes = (1, 3, 257, 5000, 1024, 2049)
    if kind.family == "strided":
        walks = [cases.strided(rng, (n // 7 + 1, 7)) for n in sizes]
        return tuple(Tensor(int(np.prod(walk.shape)), walk=walk) for walk in walks)
    return tuple(Tensor(n, tuple(int(k) for k in rng.integers(0, 4, len(ROLES)) * (n % 2))) for n in sizes)


@pytest.mark.parametrize("kind", FEW, ids=lambda kind: kind.name)
def test_a_step_that_is_skipped_changes_no_byte(kind: Specialization, cuda: HostEngine) -> None:
    case = Case(kind, some(kind, np.random.default_rng(0)), seed=5, skip=True)
    got, before = run(case, cuda, steps=2), case.memory()
    for one, other in zip(got, before, strict=True):
        for a, b in zip(one.blocks, other.blocks, strict=True):
            assert a is b is None or np.array_equal(a, b)


@st.composite
def generated(draw: st.DrawFn) -> Case:
    kind = draw(st.sampled_from(SPECIALIZATIONS))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    tensors = []
    for _ in range(draw(st.integers(1, 5))):
        if kind.family == "rows":
            width = draw(st.integers(1, 9) | st.integers(1, 300))
            height = draw(st.integers(1, 12 if width > 9 else 400))
            tensors.append(cases.some_rows(rng, width, height, draw(st.integers(1, height)), draw(OFFSETS)))
        elif kind.family == "strided":
            walk = cases.strided(rng, draw(st.lists(st.integers(1, 9), max_size=5)))
            tensors.append(Tensor(int(np.prod(walk.shape)), draw(OFFSETS), walk))
        else:
            tensors.append(Tensor(draw(SIZES), draw(OFFSETS)))
    return Case(kind, tuple(tensors), seed, tame=draw(st.booleans()))


@given(case=generated())
@settings(max_examples=400, deadline=None)
def test_generated_tensors(case: Case, cuda: HostEngine, cpu: Engine) -> None:
    compare(case, cuda, cpu)


@pytest.mark.parametrize(("kind", "geometry"), OTHER_GEOMETRIES, ids=lambda value: getattr(value, "name", repr(value)))
def test_another_geometry_returns_the_same_bits(
    kind: Specialization, geometry: Geometry, cuda: HostEngine, cpu: Engine
) -> None:
    rng = np.random.default_rng(0)
    if kind.family == "strided":
        tensors = tuple(Tensor(7 * n, walk=cases.strided(rng, (n, 7))) for n in (300, 2, 9, 150))
    else:
        tensors = tuple(Tensor(n, (n % 8,) * len(ROLES)) for n in (5000, 8192, 1, 3000))
    case = Case(kind, tensors, seed=3, policy=Policy.uniform(geometry, min_chunk=256, max_chunk=512))
    if geometry.persistent:
        # Some blocks have several turns, over tensors with other coefficients.
        assert any(launch.grid < chunks_of(launch) for launch in case.launches(case.memory()))
    compare(case, cuda, cpu)


def chunks_of(launch: Launch) -> int:
    return -(-launch.elements // launch.chunk) if launch.table is None else launch.table.chunks


def test_a_walk_of_eight_dimensions(cuda: HostEngine, cpu: Engine) -> None:
    walk = cases.strided(np.random.default_rng(5), (2, 3, 2, 2, 3, 2, 2, 2))
    kind = Specialization("strided", ADAM, FLOAT32, FLOAT16, False)
    compare(Case(kind, (Tensor(int(np.prod(walk.shape)), walk=walk),), seed=7), cuda, cpu)


def test_many_tensors_in_one_launch(cuda: HostEngine, cpu: Engine) -> None:
    kind = Specialization("multi_tensor", ADAM, BFLOAT16, BFLOAT16, True)
    case = Case(kind, tuple(Tensor(1 + k % 400, (k % 8,) * len(ROLES)) for k in range(1000)), seed=11)
    assert len(case.launches(case.memory())) == 1
    compare(case, cuda, cpu)


# ---- The two 16-bit formats, over everything that they can hold


@pytest.mark.parametrize("format", [FLOAT16, BFLOAT16], ids=str)
def test_widening_is_numpys(format, library: build.Library) -> None:  # type: ignore[no-untyped-def]
    bits = np.arange(1 << 16, dtype=np.uint16)
    got = np.empty(len(bits), np.float32)
    _convert(library, f"widen_{format}", bits, got)
    expected = bits.view(format.dtype).astype(np.float32)
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    numbers = ~np.isnan(got)
    assert np.array_equal(got.view(np.uint32)[numbers], expected.view(np.uint32)[numbers])


@pytest.mark.parametrize("format", [FLOAT16, BFLOAT16], ids=str)
def test_narrowing_is_numpys(format, library: build.Library) -> None:  # type: ignore[no-untyped-def]
    # All upper halves with the lower halves that decide the rounding of either format, and some at random.
    upper = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16
    lower = np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    bits = np.concatenate([(upper | lower).ravel(), np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, np.uint32)])
    x = bits.view(np.float32)
    got = np.empty(len(x), np.uint16)
    _convert(library, f"narrow_{format}", x, got)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(format.dtype)
    assert np.array_equal(np.isnan(got.view(format.dtype)), np.isnan(x))
    numbers = ~np.isnan(x)
    assert np.array_equal(got[numbers], expected.view(np.uint16)[numbers])


def _convert(library: build.Library, name: str, source: np.ndarray, to: np.ndarray) -> None:
    function = getattr(library.dll, name)
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_longlong)
    function(source.ctypes.data, to.ctypes.data, len(source))


# ---- The engine above the kernels


def test_steps_run_ahead_of_the_device(cuda: HostEngine, cpu: Engine) -> None:
    """The host queues many more steps than the staging ring has slots; every step still gets its own coefficients."""
    kind = Specialization("multi_tensor", ADAM, FLOAT32, FLOAT32, False)
    case = Case(kind, (Tensor(100), Tensor(37, (1,) * len(ROLES))), seed=1, tame=True)
    results = []
    for engine in (cuda, cpu):
        memories = case.memory()
        program = engine.load(case.launches(memories), device_of(engine))
        for step in range(150):
            rows = case.coefficients()
            rows["float32"][:, adam.A] *= np.float32(1 + step)
            program.run(rows)
            rows["float32"][:] = np.nan  # the engine copied them
        finish(engine)
        results.append(memories)
    assert_same(*results)


@pytest.mark.parametrize("family", ["multi_tensor", "strided"])
def test_gradients_move_every_step(family, cuda: HostEngine, cpu: Engine) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(3)
    walk = cases.strided(rng, (5, 7, 3)) if family == "strided" else None
    kind = Specialization(family, ADAM, BFLOAT16, FLOAT32, True)
    case = Case(kind, tuple(Tensor(105, walk=walk) for _ in range(9)), seed=2, tame=True)
    others = [replace(case, seed=10 + k).memory() for k in range(40)]
    results = []
    for engine in (cuda, cpu):
        memories = case.memory()
        (launch,) = launches = case.launches(memories)
        assert launch.table is not None
        program = engine.load(launches, device_of(engine))
        for other in others:
            launch.table.pointers[1] = [memory.pointers[1] for memory in other]
            program.rebind(0, 1)
            program.run(case.coefficients())
        finish(engine)
        results.append(memories)
    assert_same(*results)


def test_a_change_of_stream_keeps_the_order(cuda: HostEngine, cpu: Engine) -> None:
    kind = Specialization("multi_tensor", ADAM, FLOAT32, FLOAT32, False)
    case = Case(kind, (Tensor(100), Tensor(37)), seed=1, tame=True)
    memories = case.memory()
    program = cuda.load(case.launches(memories), device_of(cuda))
    for stream in (0, 0, 7, 7, 9, 0):
        program.run(case.coefficients(), stream)
    for stream in (0, 9, 7):  # the device may begin with any
        cuda.binding.streams.finish(stream)
    assert_same(memories, run(case, cpu, steps=6))


def test_a_step_copies_the_coefficients_and_launches_and_does_nothing_else(library: build.Library) -> None:
    cuda = HostEngine(library)
    case = Case(Specialization("multi_tensor", ADAM, FLOAT32, FLOAT32, False), (Tensor(100),), seed=1)
    program = cuda.load(case.launches(case.memory()), device_of(cuda))
    cuda.finish()
    program.run(case.coefficients())
    copy, launch, event = range(3)
    assert len(cuda.binding.streams.queues[0]) == len((copy, launch, event))


def test_memory_goes_up_and_comes_down(cuda: HostEngine) -> None:
    memory = cuda.allocate(Device("cuda"), 64)
    cuda.upload(memory, 16, np.arange(4, dtype=np.float32))
    got = cuda.download(memory, 0, 64).view(np.float32)
    assert got.tolist() == [0.0] * 4 + [0.0, 1.0, 2.0, 3.0] + [0.0] * 8
