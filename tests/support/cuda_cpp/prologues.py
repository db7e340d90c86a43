"""What must come out of generated prologues, and what comes out of the CUDA C++ and of the CPU engine.

What is expected comes from two texts that are not CUDA C++: sums written out in NumPy here, and `gpu_adam.kernels.prologue` run as
plain Python.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_adam.dtypes import FORMATS
from gpu_adam.kernels import abi
from gpu_adam.kernels import prologue as text
from gpu_adam.kernels.abi import PROLOGUE_THREADS
from gpu_adam.kernels.rules.rule import coefficients, power
from gpu_adam.plan.tables import leaves_of
from tests.support.reference import fma

from .build import Library
from .prologue_cases import GUARD_WORDS, Case, World, record_at, world


def run(made: World, library: Library) -> None:
    """Run the CUDA C++ kernel once."""
    values = np.array(made.arguments(), np.int64)
    addresses = values.ctypes.data + 8 * np.arange(len(values))
    library.kernel(f"{made.case.rule.symbol}_prologue")(made.grid, PROLOGUE_THREADS, addresses.ctypes.data)


def run_cpu(made: World) -> None:
    """Run the CPU engine's kernels once."""
    from gpu_adam.engines.cpu import finishing, measuring

    table, partials, slots, sources, *rest, finish = made.arguments()[0], *made.arguments()[3:]
    if table:
        measuring()(made.table.words, made.table.segments, made.table.leaves, partials, 0, made.table.leaves)
    if finish:
        finishing(made.case.rule)(partials, slots, sources, *rest)


def expect(made: World) -> None:
    """Do to the memory what the kernel must do to it."""
    case, table = made.case, made.table
    partials = made.inner("partials")
    for elements, slot in zip(made.elements, table.slots, strict=True):
        sums = leaf_sums(elements)
        partials[slot : slot + len(sums)] = sums
    if not case.finish:
        return
    control, settings = made.inner("control"), made.inner("settings")
    with np.errstate(all="ignore"):
        values = partials.reshape(case.sources, made.slots)
        total = values[0] + values[1] if case.sources == 2 else values[0]
        at = settings[abi.RANGES_AT]
        for r in range(case.ranges):
            first, last = settings[at + 2 * r : at + 2 * r + 2]
            control.view(np.float64)[abi.NORMS + r] = ordered_sum(total[first:last], abi.SUM_LANES)
        on = PlainPython()
        own = case.rule.coefficients(np.multiply, np.sqrt, on.narrow, power(np.multiply))
        fill = coefficients(np.multiply, on.narrow, power(np.multiply), own)
        control_at, settings_at, counts, singles, doubles = (
            made.address(name) for name in ("control", "settings", "counts", "singles", "doubles")
        )
        text.decide(on)(control_at, settings_at)
        for cohort in range(len(case.cohorts)):
            h, row = [np.float64(0.0)] * abi.RECORD_WORDS, [0.0] * abi.ROW_WORDS
            text.advance(on, fill)(control_at, settings_at, counts, cohort, singles, doubles, h, row)


def leaf_sums(elements: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of squares of each leaf, in the order that `gpu_adam.kernels.prologue` sets."""
    leaves = leaves_of(len(elements))
    rows = np.zeros((leaves, abi.LEAF // abi.LEAF_LANES, abi.LEAF_LANES))
    rows.reshape(-1)[: len(elements)] = elements
    sums = np.zeros((leaves, abi.LEAF_LANES))
    with np.errstate(all="ignore"):
        narrow = np.array_equal(elements.astype(np.float32).astype(np.float64), elements, equal_nan=True)
        for k in range(rows.shape[1]):
            # The square of a float32 is exact in float64.
            sums = rows[:, k] * rows[:, k] + sums if narrow else fma(rows[:, k], rows[:, k], sums)
        return neighbours(sums)


def ordered_sum(numbers: NDArray[np.float64], lanes: int) -> np.float64:
    """The sum over accumulators that take the numbers in turn, and of these as neighbours."""
    sums = np.zeros(lanes)
    for first in range(0, len(numbers), lanes):
        part = numbers[first : first + lanes]
        sums[: len(part)] += part
    return np.float64(neighbours(sums))


def neighbours(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums along the last axis, 2k and 2k+1 first, and so on up to one."""
    while sums.shape[-1] > 1:
        sums = sums[..., 0::2] + sums[..., 1::2]
    return sums[..., 0]


class PlainPython:
    """The target of the scalar texts that is Python itself: numbers are NumPy's, which follow IEEE 754 where Python's raise."""

    sqrt = staticmethod(np.sqrt)
    mul = staticmethod(np.multiply)

    @staticmethod
    def narrow(x: Any, wide: bool) -> Any:
        return x if wide else np.float64(np.float32(x))

    @staticmethod
    def load_word(at: int) -> int:
        return ctypes.c_int64.from_address(at).value

    @staticmethod
    def store_word(at: int, value: int) -> None:
        ctypes.c_int64.from_address(at).value = value

    def load_number(self, at: int) -> Any:
        return self.load_format(at, 0)

    @staticmethod
    def store_number(at: int, value: Any) -> None:
        ctypes.c_double.from_address(at).value = value

    def load_single(self, at: int) -> Any:
        return self.load_format(at, 1)

    @staticmethod
    def store_single(at: int, value: Any) -> None:
        ctypes.c_float.from_address(at).value = np.float32(value)

    @staticmethod
    def load_format(at: int, number: int) -> Any:
        format = FORMATS[number]
        return np.frombuffer(ctypes.string_at(at, format.itemsize), format.dtype)[0].astype(np.float64)


def assert_same(got: World, expected: World, what: str = "CUDA C++") -> None:
    """Every word is equal, guards included, all but addresses; where a word is NaN, any NaN is equal."""
    assert got.arrays.keys() == expected.arrays.keys()
    for name, a in got.arrays.items():
        b = expected.arrays[name]
        bits = f"i{a.itemsize}"
        floats = f"f{a.itemsize}"
        differ = a.view(bits) != b.view(bits)
        differ &= ~(np.isnan(a.view(floats)) & np.isnan(b.view(floats)))
        if name == "settings":
            header = [abi.SCALE_ADDRESS, abi.FOUND_ADDRESS, abi.SCALER_ADDRESS]
            cohorts = range(len(got.case.cohorts))
            rates = [record_at(got.case, k) + abi.LR_ADDRESS for k in cohorts]
            differ[[GUARD_WORDS + at for at in (*header, *rates)]] = False
        where = np.flatnonzero(differ)
        assert not where.size, (
            f"{what}, {name}: {where.size} of {len(a)} words differ, first {where[0] - GUARD_WORDS}: "
            f"{a.view(floats)[where[0]]!r} ({a.view(bits)[where[0]]:#x}), "
            f"not {b.view(floats)[where[0]]!r} ({b.view(bits)[where[0]]:#x})"
        )


class Worlds:
    """A case in three memories: the CUDA C++ kernel's, the CPU engine's, and that of what is expected."""

    def __init__(self, case: Case, library: Library) -> None:
        self.cuda, self.cpu, self.expected = self.all = tuple(world(case) for _ in range(3))
        self.library = library

    def step(self) -> None:
        """Run all three once, and compare."""
        run(self.cuda, self.library)
        run_cpu(self.cpu)
        expect(self.expected)
        assert_same(self.cuda, self.expected)
        assert_same(self.cpu, self.expected, "CPU")


def compare(case: Case, library: Library, steps: int = 1) -> World:
    """Run a case on fresh memory, and compare; the memory of the CUDA C++ kernel."""
    worlds = Worlds(case, library)
    for _ in range(steps):
        worlds.step()
    return worlds.cuda
