"""Generated prologues: gradients, settings and what a device remembers, in memory of each run's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_adam.dtypes import FLOAT32, FORMATS, Format
from gpu_adam.kernels import abi
from gpu_adam.kernels.abi import LEAF_THREADS, PROLOGUE_THREADS
from gpu_adam.kernels.rules.adam import BIAS_CORRECTION, EPS_HAT, EPSILON
from gpu_adam.kernels.rules.rule import Rule
from gpu_adam.plan.cohorts import slots_among
from gpu_adam.plan.tables import Gradient, MeasureTable, leaves_of
from gpu_adam.strides import Walk
from tests.support.shipped import ADAM

from . import cases

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
        absent: Whether there is none in this step, whose memory nobody may touch.
    """

    size: int
    format: Format = FLOAT32
    offset: int = 0
    walk: Walk | None = None
    absent: bool = False


@dataclass(frozen=True)
class Cohort:
    """A record, the step count so far, and whether it rests."""

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
    rests: bool = False


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
    """The memory of one run of a case; arrays that a kernel writes have guards around them. ``summed`` slots make up the norm."""

    case: Case
    table: MeasureTable
    elements: list[NDArray[Any]]
    slots: int
    summed: int = 0
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
    made = World(case, MeasureTable(gradients), elements, slots, summed=slots, held=held)
    present = np.array([not one.absent for one in case.gradients if one.size])
    if not present.all():
        assert case.sources == 1, "where gradients lie on several devices, all of a plan are there"
        table = made.table
        firsts, made.summed = slots_among(
            np.array([leaves_of(size) for size in table.sizes.tolist()], np.int64), present
        )
        table.measure(present, firsts)
        table.pointers[~present] = 0
        made.elements = [np.where(here, part, 0.0) for part, here in zip(elements, present, strict=True)]

    partials = made.room("partials", case.sources * slots, np.float64)
    if not case.finish or not gradients:
        partials[:slots] = rng.random(slots)
    for part in elsewhere:
        partials[slots:][part] = rng.random(part.stop - part.start) * 100.0
    control = made.room("control", abi.NORMS + max(case.ranges, 1))
    control[abi.SKIPPED] = rng.integers(0, 100)
    _settings(made, rng)
    return made


def record_at(case: Case, cohort: int) -> int:
    """Where in the settings of a case a cohort's record begins: they lie after all cohorts' words, in an order of their own."""
    count = len(case.cohorts)
    return (
        abi.HEADER_WORDS
        + abi.COHORT_WORDS * count
        + abi.RECORD_WORDS * (count - 1 - cohort if cohort < count else count)
    )


def _settings(made: World, rng: np.random.Generator) -> None:
    case = made.case
    ranges_at = record_at(case, len(case.cohorts))
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
        first, last = sorted(rng.integers(0, made.slots + 1, 2)) if r else (0, made.summed)
        settings[ranges_at + 2 * r : ranges_at + 2 * r + 2] = first, last

    wide = [one.wide for one in case.cohorts]
    made.room("singles", abi.ROW_WORDS * (len(wide) - sum(wide)), np.float32)
    made.room("doubles", abi.ROW_WORDS * sum(wide), np.float64)
    places = {kind: iter(rng.permutation(wide.count(kind))) for kind in (False, True)}
    counts = made.room("counts", len(wide))
    window_at = windows_at
    for k, one in enumerate(case.cohorts):
        counts[k] = one.count
        at = record_at(case, k)
        own = settings[abi.HEADER_WORDS + abi.COHORT_WORDS * k :]
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
        own[[abi.RECORD_AT, abi.ROW, abi.RESTS]] = at, next(places[one.wide]), one.rests
        if one.lr_format is not None:
            record[abi.LR_ADDRESS] = made.scalar(one.lr, one.lr_format)
            record[abi.LR_FORMAT] = FORMATS.index(one.lr_format)
        if one.window is not None:
            first, entries = one.window
            own[[abi.WINDOW, abi.WINDOW_FIRST, abi.WINDOW_LENGTH]] = window_at, first, len(entries)
            numbers[window_at : window_at + abi.SCHEDULED_WORDS * len(entries)] = np.ravel(entries)
            window_at += abi.SCHEDULED_WORDS * len(entries)
