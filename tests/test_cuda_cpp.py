"""The shipped CUDA C++, run on the CPU, returns the CPU engine's bits; and it touches nothing else, and nothing that it must not.

The kernels are launched by the GPU engines' own code, above a GPU made of host memory (`cuda_cpp.host_gpu`), so its tables, arguments,
staging and order of streams are tested with them.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cuda_cpp import build, cases
from cuda_cpp.cases import Case, Tensor, assert_same, device_of, finish, run
from cuda_cpp.host_gpu import HostEngine
from cuda_cpp.instances import OTHER_GEOMETRY, SHIPPED, SPECIALIZATIONS
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_adam.engines import Engine, engine_named
from gpu_adam.formats import BFLOAT16, FLOAT16, FLOAT32
from gpu_adam.layout import Device
from gpu_adam.plan import Policy, Specialization

pytestmark = pytest.mark.skipif(build.missing is not None, reason=str(build.missing))

SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 31, 36, 255, 256, 257, 1023, 1024, 1025, 2049, 5000])
OFFSETS = st.tuples(*[st.integers(0, 7)] * 6)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpu_adam.cache import cache_dir

    # Kept between runs, under a name that follows the sources; where it cannot be kept, for this run.
    return (cache_dir() or tmp_path_factory.getbasetemp()) / "tests"


@pytest.fixture(scope="session")
def library(folder: Path) -> build.Library:
    return build.Library(build.build(SHIPPED + OTHER_GEOMETRY, build.FAST, folder))


@pytest.fixture(scope="session")
def cuda(library: build.Library) -> HostEngine:
    return HostEngine(library)


@pytest.fixture(scope="session")
def cpu() -> Engine:
    return engine_named("cpu")


def compare(case: Case, cuda: HostEngine, cpu: Engine, steps: int = 1) -> None:
    assert_same(run(case, cuda, steps), run(case, cpu, steps))


# ---- One case for every kernel, and generated ones


@pytest.mark.parametrize("kind", SPECIALIZATIONS, ids=lambda kind: kind.name)
def test_every_kernel_returns_the_cpus_bits(kind: Specialization, cuda: HostEngine, cpu: Engine) -> None:
    rng = np.random.default_rng(len(kind.name))
    sizes = (1, 3, 257, 5000, 1024, 2049)
    if kind.family == "strided":
        tensors = tuple(Tensor(n, walk=cases.strided(rng, (n // 7 + 1, 7))) for n in sizes)
        tensors = tuple(replace(t, size=int(np.prod(t.walk.shape)) if t.walk else 0) for t in tensors)
    else:
        tensors = tuple(Tensor(n, tuple(int(k) for k in rng.integers(0, 4, 6) * (n % 2))) for n in sizes)
    compare(Case(kind, tensors, seed=len(kind.name)), cuda, cpu)
    compare(Case(kind, tensors, seed=1, tame=True), cuda, cpu, steps=3)


@st.composite
def generated(draw: st.DrawFn) -> Case:
    kind = draw(st.sampled_from(SPECIALIZATIONS))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    tensors = []
    for _ in range(draw(st.integers(1, 5))):
        if kind.family == "strided":
            walk = cases.strided(rng, draw(st.lists(st.integers(1, 9), max_size=5)))
            tensors.append(Tensor(int(np.prod(walk.shape)), draw(OFFSETS), walk))
        else:
            tensors.append(Tensor(draw(SIZES), draw(OFFSETS)))
    return Case(kind, tuple(tensors), seed, tame=draw(st.booleans()))


@given(case=generated())
@settings(max_examples=400, deadline=None)
def test_generated_tensors(case: Case, cuda: HostEngine, cpu: Engine) -> None:
    compare(case, cuda, cpu)


@pytest.mark.parametrize("kernel", OTHER_GEOMETRY, ids=build.symbol)
def test_another_geometry_returns_the_same_bits(kernel: build.Instance, library: build.Library, cpu: Engine) -> None:
    cuda = HostEngine(library)
    cuda.policy = Policy(threads=kernel.threads, vectors=kernel.vectors)
    rng = np.random.default_rng(0)
    if kernel.specialization.family == "strided":
        tensors = tuple(Tensor(7 * n, walk=cases.strided(rng, (n, 7))) for n in (300, 2, 9))
    else:
        tensors = tuple(Tensor(n, (n % 8,) * 6) for n in (5000, 8192, 1, 3000))
    compare(Case(kernel.specialization, tensors, seed=3, policy=cuda.policy), cuda, cpu)


def test_a_walk_of_eight_dimensions(cuda: HostEngine, cpu: Engine) -> None:
    walk = cases.strided(np.random.default_rng(5), (2, 3, 2, 2, 3, 2, 2, 2))
    kind = Specialization("strided", "adam", 2, FLOAT32, FLOAT16, False)
    compare(Case(kind, (Tensor(int(np.prod(walk.shape)), walk=walk),), seed=7), cuda, cpu)


def test_many_tensors_in_one_launch(cuda: HostEngine, cpu: Engine) -> None:
    kind = Specialization("multi_tensor", "adam", 2, BFLOAT16, BFLOAT16, True)
    case = Case(kind, tuple(Tensor(1 + k % 400, (k % 8,) * 6) for k in range(1000)), seed=11)
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
    kind = Specialization("multi_tensor", "adam", 2, FLOAT32, FLOAT32, False)
    case = Case(kind, (Tensor(100), Tensor(37, (1,) * 6)), seed=1, tame=True)
    results = []
    for engine in (cuda, cpu):
        memories = case.memory()
        program = engine.load(case.launches(memories), device_of(engine))
        for step in range(150):
            rows = case.coefficients()
            rows["float32"][:, 9] *= np.float32(1 + step)
            program.run(rows)
            rows["float32"][:] = np.nan  # the engine copied them
        finish(engine)
        results.append(memories)
    assert_same(*results)


@pytest.mark.parametrize("family", ["multi_tensor", "strided"])
def test_gradients_move_every_step(family, cuda: HostEngine, cpu: Engine) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(3)
    walk = cases.strided(rng, (5, 7, 3)) if family == "strided" else None
    kind = Specialization(family, "adam", 2, BFLOAT16, FLOAT32, True)
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
    kind = Specialization("multi_tensor", "adam", 2, FLOAT32, FLOAT32, False)
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
    case = Case(Specialization("multi_tensor", "adam", 2, FLOAT32, FLOAT32, False), (Tensor(100),), seed=1)
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


# ---- Under the sanitizers

_DRIVER = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
import numpy as np
from cuda_cpp import build, cases
from cuda_cpp.cases import Case, Tensor, run
from cuda_cpp.host_gpu import HostEngine
from cuda_cpp.instances import SPECIALIZATIONS
cuda = HostEngine(build.Library(Path({library!r})))
rng = np.random.default_rng(17)
for kind in SPECIALIZATIONS:
    for round in range(3):
        if kind.family == "strided":
            walks = [cases.strided(rng, rng.integers(1, 9, rng.integers(0, 5)).tolist()) for _ in range(3)]
            tensors = [Tensor(int(np.prod(walk.shape)), walk=walk) for walk in walks]
        else:
            tensors = [Tensor(int(n), tuple(rng.integers(0, 4, 6).tolist())) for n in rng.choice([1, 2, 5, 8, 36, 257, 1024, 1029], 3)]
        run(Case(kind, tuple(tensors), seed=int(rng.integers(1 << 30)), guard=0), cuda)
if {read_past!r}:
    case = Case(kind, (Tensor(8),), seed=0, guard=0)
    memories = case.memory()
    launches = case.launches(memories)
    launches[0].table.ends[:] += 1
    program = cuda.load(launches, cases.device_of(cuda))
    program.run(case.coefficients())
    cuda.finish()
print("all kernels ran")
"""


def sanitized(library: Path, read_past: bool) -> subprocess.CompletedProcess[str]:
    names = ("libasan.so", "libubsan.so")
    preload = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in names
    ]
    tests = Path(__file__).parent
    program = _DRIVER.format(tests=str(tests), root=str(tests.parent), library=str(library), read_past=read_past)
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(preload),
        # Python's own allocator hides the edges of its blocks, and what it never frees is not our leak.
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="session")
def sanitized_library(folder: Path) -> Path:
    return build.build(SHIPPED, build.SANITIZED, folder)


@pytest.mark.slow
def test_the_address_and_undefined_behaviour_sanitizers_find_nothing(sanitized_library: Path) -> None:
    done = sanitized(sanitized_library, read_past=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "all kernels ran\n"


@pytest.mark.slow
def test_the_sanitizers_would_find_one_element_too_many(sanitized_library: Path) -> None:
    done = sanitized(sanitized_library, read_past=True)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
