"""Generated prologues: gradients, settings and what a device remembers, in memory of each run's own; and what must come out.

What is expected comes from two texts that are not CUDA C++: sums written out in NumPy here, and `gpu_adam.kernels.prologue` run as
plain Python.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_adam.dtypes import FLOAT32, FORMATS, Format
from gpu_adam.kernels import abi
from gpu_adam.kernels import prologue as text
from gpu_adam.kernels.abi import LEAF_THREADS, PROLOGUE_THREADS
from gpu_adam.kernels.rules.adam import BIAS_CORRECTION, EPS_HAT, EPSILON
from gpu_adam.kernels.rules.rule import Rule, coefficients, power
from gpu_adam.plan.tables import Gradient, MeasureTable, leaves_of
from gpu_adam.strides import Walk
from tests.support.reference import fma
from tests.support.shipped import ADAM

from . import cases
from .build import Library

GUARD_WORDS = 8
"""Words before and after what a kernel writes, which it must leave alone."""


@dataclass(frozen=True)
class Measured:
    """A gradient.

    Attributes:
        size: Its elements.
        format: Their format.
        offset: Elements by which it begins beyond a 16-byte boundary.
        walk: Its strides; ``None`` for one element after the other.
    """

    size: int
    format: Format = FLOAT32
    offset: int = 0
    walk: Walk | None = None


@dataclass(frozen=True)
class Cohort:
    """A record, and the step count so far."""

    count: int = 0
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay: float = 0.0
    decoupled: bool = False
    maximize: bool = False
    bias_correction: bool = True
    eps_hat: bool = False
    averaging: int = 0
    average_decay: float = 0.99
    wide: bool = False
    lr_format: Format | None = None
    window: tuple[int, tuple[tuple[float, ...], ...]] | None = None


@dataclass(frozen=True)
class Scaler:
    """The state of a loss scaler."""

    scale: float = 1024.0
    tracker: int = 0
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 3


@dataclass(frozen=True)
class Case:
    """What a prologue is run on.

    Attributes:
        gradients: What is measured.
        cohorts: What is advanced.
        seed: Of all values.
        tame: Whether these are ordinary numbers.
        sources: 1, or 2 where every other gradient lies on another device, whose sums are there already.
        ranges: Ranges of slots that are summed, the first of them all slots; 0 where nothing is measured.
        guard: Bytes around each gradient; 0 under AddressSanitizer, which has its own.
    """

    gradients: tuple[Measured, ...] = ()
    cohorts: tuple[Cohort, ...] = (Cohort(),)
    rule: Rule = ADAM
    seed: int = 0
    tame: bool = True
    sources: int = 1
    ranges: int = 1
    max_norm: float = np.inf
    loss_scale: float = 1.0
    skip_nonfinite: bool = False
    narrow: bool = False
    scale_format: Format | None = None
    found: tuple[Format, float] | None = None
    scaler: Scaler | None = None
    finish: bool = True
    guard: int = cases.GUARD


@dataclass
class World:
    """The memory of one run of a case; arrays that a kernel writes have guards around them."""

    case: Case
    table: MeasureTable
    elements: list[NDArray[Any]]
    slots: int
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)

    def room(self, name: str, size: int, dtype: Any = np.int64) -> NDArray[Any]:
        """A new array with guards, kept under a name; the part between the guards."""
        itemsize = np.dtype(dtype).itemsize
        self.arrays[name] = np.full(size + 2 * self.guard, -0x5A5A5A5A, f"i{itemsize}").view(dtype)
        inner = self.inner(name)
        inner[:] = 0
        return inner

    @property
    def guard(self) -> int:
        """Words of guard."""
        return GUARD_WORDS if self.case.guard else 0

    def address(self, name: str) -> int:
        """Where an array's first word is, after the guard."""
        array = self.arrays[name]
        return array.ctypes.data + self.guard * array.itemsize

    def inner(self, name: str) -> NDArray[Any]:
        """An array without its guards."""
        array = self.arrays[name]
        return array[self.guard : len(array) - self.guard]

    def scalar(self, value: float, format: Format) -> int:
        """The address of a number on the device."""
        with np.errstate(over="ignore"):
            self.held.append(np.array([value]).astype(format.dtype))
        return int(self.held[-1].ctypes.data)

    def arguments(self) -> list[int]:
        """The kernel's arguments."""
        case, leaves = self.case, self.table.leaves
        return [
            self.table.words.ctypes.data if leaves else 0,
            self.table.segments,
            leaves,
            self.address("partials"),
            self.slots,
            case.sources,
            *(self.address(name) for name in ("control", "settings", "counts", "singles", "doubles")),
            int(case.finish),
        ]

    @property
    def grid(self) -> int:
        return max(1, -(-self.table.leaves * LEAF_THREADS // PROLOGUE_THREADS))


def world(case: Case) -> World:
    """Fresh memory for a case."""
    rng = np.random.default_rng(case.seed)
    gradients, elements, held, slots, elsewhere = [], [], [], 0, []
    for k, one in enumerate(case.gradients):
        if not one.size:
            continue
        walk = one.walk or Walk((one.size,), (1,), (1,))
        ends = [(n - 1) * s for n, s in zip(walk.shape, walk.grad, strict=True)]
        low, high = sum(e for e in ends if e < 0), sum(e for e in ends if e > 0)
        count, itemsize = high - low + 1, one.format.itemsize
        block, base = cases._aligned(count, one.format, one.offset, case.guard)
        stretch = block[base : base + count * itemsize]
        cases.values(rng, one.format, stretch, case.tame, False)
        if case.sources == 2 and k % 2:
            elsewhere.append(slice(slots, slots + leaves_of(one.size)))
        else:
            held.append(block)
            gradients.append(Gradient(block.ctypes.data + base - low * itemsize, one.size, one.format, walk, slots))
            strided = np.lib.stride_tricks.as_strided(
                stretch.view(one.format.dtype)[-low:], walk.shape, [s * itemsize for s in walk.grad], writeable=False
            )
            with np.errstate(invalid="ignore"):
                elements.append(strided.reshape(-1).astype(np.float64))
        slots += leaves_of(one.size)
    made = World(case, MeasureTable(gradients), elements, slots, held=held)

    partials = made.room("partials", case.sources * slots, np.float64)
    if not case.finish or not gradients:
        partials[:slots] = rng.random(slots)
    for part in elsewhere:
        partials[slots:][part] = rng.random(part.stop - part.start) * 100.0
    control = made.room("control", abi.NORMS + max(case.ranges, 1))
    control[abi.SKIPPED] = rng.integers(0, 100)
    _settings(made, rng)
    return made


def _settings(made: World, rng: np.random.Generator) -> None:
    case = made.case
    ranges_at = abi.HEADER_WORDS + abi.RECORD_WORDS * len(case.cohorts)
    windows_at = ranges_at + 2 * case.ranges
    scheduled = [len(one.window[1]) if one.window else 0 for one in case.cohorts]
    settings = made.room("settings", windows_at + abi.SCHEDULED_WORDS * sum(scheduled))
    numbers = settings.view(np.float64)
    numbers[[abi.MAX_NORM, abi.LOSS_SCALE]] = case.max_norm, case.loss_scale
    numbers[[abi.SKIP_NONFINITE, abi.NARROW]] = case.skip_nonfinite, case.narrow
    settings[[abi.RANGES, abi.RANGES_AT, abi.COHORTS]] = case.ranges, ranges_at, len(case.cohorts)
    if case.scale_format is not None:
        settings[abi.SCALE_ADDRESS] = made.scalar(case.loss_scale, case.scale_format)
        settings[abi.SCALE_FORMAT] = FORMATS.index(case.scale_format)
    if case.found is not None:
        format, value = case.found
        settings[abi.FOUND_ADDRESS] = made.scalar(value, format)
        settings[abi.FOUND_FORMAT] = FORMATS.index(format)
    if case.scaler is not None:
        scaler = made.room("scaler", abi.SCALER_WORDS)
        settings[abi.SCALER_ADDRESS] = made.address("scaler")
        scaler.view(np.float32)[2 * abi.SCALER_SCALE] = case.scaler.scale
        scaler[[abi.SCALER_TRACKER, abi.SCALER_INTERVAL]] = case.scaler.tracker, case.scaler.interval
        scaler.view(np.float64)[[abi.SCALER_GROWTH, abi.SCALER_BACKOFF]] = case.scaler.growth, case.scaler.backoff
    for r in range(case.ranges):
        first, last = sorted(rng.integers(0, made.slots + 1, 2)) if r else (0, made.slots)
        settings[ranges_at + 2 * r : ranges_at + 2 * r + 2] = first, last

    wide = [one.wide for one in case.cohorts]
    made.room("singles", abi.ROW_WORDS * (len(wide) - sum(wide)), np.float32)
    made.room("doubles", abi.ROW_WORDS * sum(wide), np.float64)
    places = {kind: iter(rng.permutation(wide.count(kind))) for kind in (False, True)}
    counts = made.room("counts", len(wide))
    window_at = windows_at
    for k, one in enumerate(case.cohorts):
        counts[k] = one.count
        at = abi.HEADER_WORDS + abi.RECORD_WORDS * k
        record, record_numbers = settings[at:], numbers[at:]
        for word, number in {
            abi.LR: one.lr,
            abi.OWN_0: one.betas[0],
            abi.OWN_1: one.betas[1],
            abi.DECAY: one.decay,
            abi.IS_DECOUPLED: one.decoupled,
            abi.MAXIMIZE: one.maximize,
            abi.AVERAGING: one.averaging,
            abi.AVERAGE_DECAY: one.average_decay,
            abi.WIDE: one.wide,
            EPSILON: one.eps,
            BIAS_CORRECTION: one.bias_correction,
            EPS_HAT: one.eps_hat,
        }.items():
            record_numbers[word] = number
        record[abi.ROW] = next(places[one.wide])
        if one.lr_format is not None:
            record[abi.LR_ADDRESS] = made.scalar(one.lr, one.lr_format)
            record[abi.LR_FORMAT] = FORMATS.index(one.lr_format)
        if one.window is not None:
            first, entries = one.window
            record[[abi.WINDOW, abi.WINDOW_FIRST, abi.WINDOW_LENGTH]] = window_at, first, len(entries)
            numbers[window_at : window_at + abi.SCHEDULED_WORDS * len(entries)] = np.ravel(entries)
            window_at += abi.SCHEDULED_WORDS * len(entries)


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
    rows = np.zeros((leaves, abi.LEAF // abi.LANES, abi.LANES))
    rows.reshape(-1)[: len(elements)] = elements
    sums = np.zeros((leaves, abi.LANES))
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
            rates = [abi.HEADER_WORDS + abi.RECORD_WORDS * k + abi.LR_ADDRESS for k in cohorts]
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
