"""The shipped CUDA C++ under sanitizers: no byte is touched that must not be, and the threads of the prologue wait for each other."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from gpu_adam.kernels.specialization import PrologueKernel
from tests.support.cuda_cpp import build
from tests.support.cuda_cpp.instances import SHIPPED
from tests.support.cuda_cpp.sanitizers import sanitized
from tests.support.shipped import ADAM

pytest_plugins = ("tests.support.cuda_cpp.fixtures",)
pytestmark = [pytest.mark.skipif(build.missing is not None, reason=str(build.missing)), pytest.mark.slow]

# ---- Addresses and undefined behaviour

_START = """
from pathlib import Path
import numpy as np
from tests.support.cuda_cpp import build, cases
from tests.support.cuda_cpp.cases import Case, Tensor, run
from tests.support.cuda_cpp.host_gpu import HostEngine
from tests.support.cuda_cpp.instances import SPECIALIZATIONS
from gpu_adam.kernels.abi import ROLES
library = build.Library(Path({library!r}))
cuda = HostEngine(library)
rng = np.random.default_rng(17)
"""

_UPDATES = """
for kind in SPECIALIZATIONS:
    for round in range(3):
        offsets = [tuple(rng.integers(0, 4, len(ROLES)).tolist()) for _ in range(3)]
        if kind.family == "strided":
            walks = [cases.strided(rng, rng.integers(1, 9, rng.integers(0, 5)).tolist()) for _ in range(3)]
            tensors = [Tensor(int(np.prod(walk.shape)), walk=walk) for walk in walks]
        elif kind.family == "rows":
            widths = rng.choice([1, 5, 64, 129, 384, 1025], 3)
            tensors = [cases.some_rows(rng, int(width), 5, 3, offset) for width, offset in zip(widths, offsets)]
        else:
            sizes = rng.choice([1, 2, 5, 8, 36, 257, 1024, 1029], 3)
            tensors = [Tensor(int(n), offset) for n, offset in zip(sizes, offsets)]
        run(Case(kind, tuple(tensors), seed=int(rng.integers(1 << 30)), guard=0), cuda)
"""

_ONE_TOO_MANY = """
case = Case(next(kind for kind in SPECIALIZATIONS if kind.family == "multi_tensor"), (Tensor(8),), seed=0, guard=0)
memories = case.memory()
launches = case.launches(memories)
launches[0].table.ends[:] += 1
program = cuda.load(launches, cases.device_of(cuda))
program.run(case.coefficients())
cuda.finish()
"""

_PROLOGUE = """
from tests.support.cuda_cpp import prologue_cases, prologues
from tests.support.cuda_cpp.prologue_cases import Cohort, Measured, Scaler
from tests.support.shipped import OPTIMIZERS
from gpu_adam.dtypes import FLOAT32, FORMATS
walks = [cases.strided(rng, shape) for shape in ((), (7,), (33, 40), (5, 3, 70))]
gradients = [Measured(n, format, offset) for n in (1, 2, 5, 1023, 1025, 2049) for format in FORMATS for offset in (0, 1)]
gradients += [Measured(int(np.prod(walk.shape)), format, 0, walk) for walk in walks for format in FORMATS]
window = (2, ((0.1, 0.9, 0.99, 0.0), (0.2, 0.9, 0.99, 0.0)))
cohorts = [Cohort(k, wide=wide, averaging=k, lr_format=format, window=window if k else None)
           for k in range(3) for wide in (False, True) for format in (None, *FORMATS)]
for rule in (optimizer.algorithm.rules[0] for optimizer in OPTIMIZERS.values()):
    for case in (
        prologue_cases.Case(tuple(gradients), tuple(cohorts), rule, max_norm=1.0, ranges=3, guard=0),
        prologue_cases.Case(tuple(gradients), tuple(cohorts), rule, sources=2, found=(FLOAT32, 1.0), scaler=Scaler(), guard=0),
        prologue_cases.Case((), (Cohort(),), rule, ranges=0, scaler=Scaler(interval=1), scale_format=FLOAT32, guard=0),
        prologue_cases.Case((), (Cohort(wide=True),), rule, ranges=0, guard=0),
    ):
        made = prologue_cases.world(case)
        prologues.run(made, library)
        prologues.run(made, library)
"""

_ROWS = """
from gpu_adam.kernels.specialization import blocks_of_rows, log2_tile
from tests.support.cuda_cpp.instances import COALESCES
for kernel in COALESCES:
    for width in (1, 5, 64, 300):
        numbers = rng.integers(-1, 7, 20)
        order = np.argsort(numbers, kind="stable")
        values = np.zeros(20 * width * kernel.values.itemsize, np.uint8)
        out, indices, ranked = np.empty(22 * width, kernel.working.dtype), np.empty(22, np.int64), numbers[order]
        arguments = [array.ctypes.data for array in (values, out, indices)] + [width, 20, 22]
        arguments = np.array([*arguments, order.ctypes.data, ranked.ctypes.data, 6, log2_tile(width, kernel.lanes)])
        addresses = arguments.ctypes.data + 8 * np.arange(len(arguments))
        grid = blocks_of_rows(22, log2_tile(width, kernel.lanes))
        library.kernel(build.symbol(kernel))(grid, kernel.threads, addresses.ctypes.data)
"""


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Path:
    return build.build(SHIPPED, build.SANITIZED, folder)


def test_the_address_and_undefined_behaviour_sanitizers_find_nothing(guarded: Path) -> None:
    program = _START.format(library=str(guarded)) + _UPDATES + _PROLOGUE + _ROWS + "print('all kernels ran')"
    done = sanitized(program, ("libasan.so", "libubsan.so"))
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "all kernels ran\n"


def test_one_element_too_many_would_be_found(guarded: Path) -> None:
    done = sanitized(_START.format(library=str(guarded)) + _ONE_TOO_MANY, ("libasan.so", "libubsan.so"))
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


def test_one_leaf_too_many_would_be_found(guarded: Path) -> None:
    program = """
case = prologue_cases.Case((Measured(8),), guard=0)
made = prologue_cases.world(case)
made.table.sizes[:] += 1
prologues.run(made, library)
"""
    imports = _PROLOGUE[: _PROLOGUE.index("walks =")]
    done = sanitized(_START.format(library=str(guarded)) + imports + program, ("libasan.so", "libubsan.so"))
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


# ---- Races

_RACES = """
from pathlib import Path
from tests.support.cuda_cpp import build, prologues
from tests.support.cuda_cpp.prologue_cases import Case, Cohort, Measured, world
from gpu_adam.dtypes import FORMATS
gradients = tuple(Measured(size, format) for size in (1, 1025, 5000) for format in FORMATS)
made = world(Case(gradients, (Cohort(), Cohort(wide=True)), ranges=3, max_norm=1.0))
assert made.grid > 1, "blocks that run at the same time"
prologues.run(made, build.Library(Path({library!r})))
print("the prologue ran")
"""

ORDERS = {
    f"prologue.cu:{number}": line.strip()
    for number, line in enumerate((build.KERNELS / "cuda" / "prologue.cu").read_text().splitlines(), start=1)
    if re.search(r"__syncthreads\(\)|__threadfence\(\)", line)
}
"""The barriers and fences, by where they are."""


@pytest.fixture(scope="module")
def watched(folder: Path) -> Path:
    return build.build([PrologueKernel(ADAM)], build.RACES, folder)


def test_the_prologue_has_no_race(watched: Path) -> None:
    done = sanitized(_RACES.format(library=str(watched)), ("libtsan.so",))
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "the prologue ran\n"


@pytest.mark.parametrize("place", ORDERS)
def test_every_barrier_and_fence_is_needed(place: str, watched: Path) -> None:
    """Without it ThreadSanitizer reports a race; so it would report one that was forgotten.

    Where the threads then part ways, some may end at a barrier that the others never reach, before the race has happened.
    """
    done = sanitized(_RACES.format(library=str(watched)), ("libtsan.so",), STAND_IN_WITHOUT=place)
    assert done.returncode != 0
    told = ("WARNING: ThreadSanitizer: data race", "a barrier or shuffle that not all threads reach")
    assert any(each in done.stderr for each in told), done.stderr[-4000:]


def test_a_barrier_that_not_all_threads_reach_is_an_error(tmp_path: Path) -> None:
    """Rather than a program that waits for ever."""
    source = tmp_path / "halves.cpp"
    source.write_text(
        "__global__ void halves(int) {\n  if (threadIdx.x < 16) __syncthreads();\n}\n"
        "STAND_IN_KERNEL_WITH_BARRIERS(launch, halves)\n"
        "int main() {\n  int zero = 0;\n  void* parameters[] = {&zero};\n  launch(1, 32, parameters);\n}\n"
    )
    build.run("g++", *build.FLAGS, str(source), "-o", str(tmp_path / "halves"))
    done = subprocess.run([str(tmp_path / "halves")], capture_output=True, text=True)
    assert done.returncode != 0
    assert "a barrier or shuffle that not all threads reach" in done.stderr
