"""The sum of a sparse gradient's rows in CUDA C++, run on the CPU: each in the order in which its rows were given, all else untouched."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpu_adam.engines import SumArguments, engine_named
from gpu_adam.kernels.specialization import CoalesceKernel, log2_tile
from tests.support.cuda_cpp import build, cases
from tests.support.cuda_cpp.instances import COALESCES
from tests.support.reference import assert_same_bits

pytest_plugins = ("tests.support.cuda_cpp.fixtures",)
pytestmark = pytest.mark.skipif(build.missing is not None, reason=str(build.missing))

GUARD = 32
"""Elements before and after what the kernel writes."""


@dataclass
class Sums:
    """A gradient of rows, and the room for their sums with guards around it."""

    kernel: CoalesceKernel
    numbers: NDArray[np.int64]
    width: int
    capacity: int
    limit: int
    seed: int
    values: NDArray[np.uint8] = field(init=False)
    out: NDArray[np.generic] = field(init=False)
    indices: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        count, working = len(self.numbers), self.kernel.working.dtype
        self.values = np.zeros(count * self.width * self.kernel.values.itemsize, np.uint8)
        cases.values(rng, self.kernel.values, self.values, self.seed % 2 == 0, False)
        self.out = np.full(self.capacity * self.width + 2 * GUARD, 7.0, working)
        self.indices = np.full(self.capacity + 2 * GUARD, -7, np.int64)
        self.order = np.argsort(self.numbers, kind="stable")
        self.ranked = self.numbers[self.order]

    def arguments(self) -> tuple[int, ...]:
        return (
            self.values.ctypes.data,
            self.out.ctypes.data + GUARD * self.out.itemsize,
            self.indices.ctypes.data + GUARD * 8,
            self.width,
            len(self.numbers),
            self.capacity,
            self.order.ctypes.data,
            self.ranked.ctypes.data,
            self.limit,
        )

    def run(self, library: build.Library, tile: int | None) -> None:
        tile = log2_tile(self.width, self.kernel.lanes) if tile is None else tile
        arguments = np.array([*self.arguments(), tile], np.int64)
        addresses = arguments.ctypes.data + 8 * np.arange(len(arguments))
        grid = -(-(self.capacity << tile) // self.kernel.threads)
        library.kernel(build.symbol(self.kernel))(grid, self.kernel.threads, addresses.ctypes.data)

    def run_cpu(self) -> None:
        values, out, indices, *rest = self.arguments()
        sums = SumArguments(values, self.kernel.values, self.kernel.working, out, indices, *rest)
        engine_named("cpu").coalesce(sums)

    def expect(self) -> None:
        """One row after the other, as they were given."""
        with np.errstate(all="ignore"):
            rows = self.values.view(self.kernel.values.dtype).reshape(-1, self.width).astype(self.kernel.working.dtype)
            sums: dict[int, NDArray[np.generic]] = {}
            for number, row in zip(self.numbers.tolist(), rows, strict=True):
                sums[number] = sums[number] + row if number in sums else row
        out = self.out[GUARD:-GUARD].reshape(self.capacity, self.width)
        indices = self.indices[GUARD:-GUARD]
        out[:], indices[:] = 0, -1
        for number, total in sums.items():
            if 0 <= number < self.limit:
                place = int(np.searchsorted(self.ranked, number))
                out[place], indices[place] = total, number


def compare(
    kernel: CoalesceKernel,
    numbers: NDArray[np.int64],
    width: int,
    library: build.Library,
    *,
    room: int = 0,
    limit: int = 1000,
    seed: int = 0,
    tile: int | None = None,
) -> None:
    """Compare the kernels; a tile has as many threads as the engine would give it, or ``2**tile``."""
    cuda, cpu, expected = (Sums(kernel, numbers, width, len(numbers) + room, limit, seed) for _ in range(3))
    cuda.run(library, tile)
    cpu.run_cpu()
    expected.expect()
    for one, what in ((cuda, "CUDA C++"), (cpu, "CPU")):
        assert np.array_equal(one.indices, expected.indices), what
        assert_same_bits(one.out, expected.out, what)


@pytest.mark.parametrize("kernel", COALESCES, ids=build.symbol)
def test_every_kernel(kernel: CoalesceKernel, library: build.Library) -> None:
    rng = np.random.default_rng(kernel.lanes)
    for width in (1, 2, 3, 5, 8, 9, 64, 300, 1028):
        compare(kernel, rng.integers(0, 20, 30), width, library, room=3, limit=18, seed=width)
        compare(kernel, rng.permutation(20), width, library, seed=width)


@pytest.mark.parametrize("kernel", COALESCES, ids=build.symbol)
def test_long_runs(kernel: CoalesceKernel, library: build.Library) -> None:
    """Every length of a run up to some, so that its end lies anywhere in a batch, and one of hundreds."""
    numbers = np.concatenate([np.full(length, length) for length in (*range(1, 20), 321)])
    compare(kernel, np.random.default_rng(0).permutation(numbers), 5, library)


def test_numbers_that_do_not_count(library: build.Library) -> None:
    """Negative ones, those beyond the matrix, and none at all."""
    numbers = np.array([-1, 5, 1 << 40, -(1 << 40), 0, 5, 7, 6, -1])
    compare(COALESCES[0], numbers, 4, library, limit=7)
    compare(COALESCES[0], numbers[:0], 4, library, room=3)
    compare(COALESCES[0], np.array([3]), 4, library, limit=0)


@given(
    kernel=st.sampled_from(COALESCES),
    numbers=st.lists(st.integers(-1, 12), max_size=40),
    width=st.integers(1, 140),
    room=st.integers(0, 5),
    tile=st.integers(0, 7),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_generated_rows(
    kernel: CoalesceKernel, numbers: list[int], width: int, room: int, tile: int, seed: int, library: build.Library
) -> None:
    if numbers or room:
        compare(kernel, np.array(numbers, np.int64), width, library, room=room, limit=11, seed=seed, tile=tile)
