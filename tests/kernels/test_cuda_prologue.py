"""The prologue in CUDA C++, run on the CPU with its blocks side by side, and the CPU engine's leave every word as it must be.

What is expected is written out in `cuda_cpp.prologues`: the sums in NumPy, the decision and the rows by `gpu_adam.kernels.prologue` as
plain Python.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FORMATS, Format
from gpu_adam.kernels.abi import CLIP, FACTOR, LEAF, NORMS, SKIP, SKIPPED, SKIPS, SUM_LANES, TICKET
from gpu_adam.kernels.rules.rule import Rule
from gpu_adam.plan.tables import MeasureTable
from tests.support.cuda_cpp import build, cases
from tests.support.cuda_cpp.prologue_cases import Case, Cohort, Measured, Scaler, World, world
from tests.support.cuda_cpp.prologues import Worlds, compare, leaf_sums, ordered_sum
from tests.support.shipped import OPTIMIZERS

pytest_plugins = ("tests.support.cuda_cpp.fixtures",)
pytestmark = pytest.mark.skipif(build.missing is not None, reason=str(build.missing))

SIZES = (0, 1, 2, 3, 4, 5, 127, 128, 129, 1023, 1024, 1025, 2047, 2048, 2049, 5000)
MIXED = tuple(Measured(size, format, k % 3) for k, size in enumerate(SIZES) for format in FORMATS)


def number(made: World, word: int) -> float:
    return float(made.inner("control").view(np.float64)[word])


# ---- Measuring


@pytest.mark.parametrize("tame", [True, False], ids=["tame", "wild"])
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_every_size_and_alignment(format: Format, tame: bool, library: build.Library) -> None:
    lanes = 16 // format.itemsize
    gradients = tuple(Measured(size, format, offset) for size in SIZES for offset in range(lanes))
    compare(Case(gradients, seed=lanes, tame=tame), library)


@pytest.mark.parametrize("tame", [True, False], ids=["tame", "wild"])
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_strided_gradients(format: Format, tame: bool, library: build.Library) -> None:
    rng = np.random.default_rng(3)
    shapes = ((), (1,), (5,), (1024,), (3, 500), (41, 5, 7, 2), (2, 3, 2, 2, 3, 2, 2, 2), (1100, 2))
    walks = [cases.strided(rng, shape) for shape in shapes]
    gradients = tuple(Measured(int(np.prod(walk.shape)), format, k % 3, walk) for k, walk in enumerate(walks))
    compare(Case(gradients, tame=tame), library)


def test_formats_and_strides_within_one_warp(library: build.Library) -> None:
    """A warp sums two leaves, which may have to go different ways."""
    walk = cases.strided(np.random.default_rng(1), (30, 31))
    ways = [(format, walk) for format in FORMATS] + [(format, None) for format in FORMATS]
    pairs = [(one, other) for one in ways for other in ways]
    gradients = tuple(Measured(930, format, 0, walk) for pair in pairs for format, walk in pair)
    compare(Case(gradients, max_norm=3.0), library)


def test_thousands_of_tensors(library: build.Library) -> None:
    gradients = tuple(Measured(1 + k % 1300, FORMATS[k % 7 % 4] if k % 7 else FLOAT32, k % 4) for k in range(3000))
    gradients = tuple(one if one.format is not FLOAT64 else replace(one, size=one.size % 50) for one in gradients)
    made = compare(Case(gradients, ranges=6, max_norm=1.0), library)
    assert made.grid > 100


def test_the_norm_is_the_norm(library: build.Library) -> None:
    made = compare(Case(MIXED, loss_scale=4.0, max_norm=2.5), library)
    norm = np.sqrt(sum(float(np.sum(elements**2)) for elements in made.elements)) / 4.0
    assert number(made, NORMS) == pytest.approx(norm, rel=1e-12)
    assert number(made, CLIP) == pytest.approx(2.5 / norm, rel=1e-5)
    assert number(made, FACTOR) == pytest.approx(2.5 / norm / 4.0, rel=1e-5)


def test_several_ranges_many_slots(library: build.Library) -> None:
    """More slots than a thread asks for at once, and ranges that begin and end anywhere."""
    gradients = (Measured(LEAF * 4500, BFLOAT16), Measured(LEAF * 600 + 3, FLOAT16))
    compare(Case(gradients, ranges=9), library)


def test_the_sums_of_two_devices(library: build.Library) -> None:
    compare(Case(MIXED, sources=2, ranges=4, max_norm=1.0), library, steps=2)


def test_gradients_that_are_absent(library: build.Library) -> None:
    """They are not read, and take no part in the order of the sum."""
    rng = np.random.default_rng(8)
    walk = cases.strided(rng, (41, 5, 7, 2))
    gradients = (*MIXED, *(Measured(2870, format, 0, walk) for format in FORMATS))
    some = tuple(replace(one, absent=bool(rng.integers(0, 2))) for one in gradients)
    made = compare(Case(some, max_norm=1.0), library, steps=2)
    others = world(Case(some)).elements
    kept = [elements for elements, one in zip(others, (g for g in some if g.size), strict=True) if not one.absent]
    assert number(made, NORMS) == np.sqrt(ordered_sum(np.concatenate([leaf_sums(one) for one in kept]), SUM_LANES))
    compare(Case(tuple(replace(one, absent=True) for one in gradients)), library)


def test_cohorts_that_rest(library: build.Library) -> None:
    cohorts = tuple(replace(one, rests=k % 2 == 0) for k, one in enumerate((*COHORTS, *COHORTS)))
    made = compare(Case((Measured(100),), cohorts), library, steps=3)
    assert made.inner("counts").tolist() == [one.count + 3 * (not one.rests) for one in cohorts]


def test_measuring_alone_leaves_the_rest(library: build.Library) -> None:
    made = compare(Case(MIXED, sources=2, ranges=4, max_norm=1.0, finish=False), library)
    assert not made.inner("control")[TICKET]
    assert not made.inner("counts").any()


def test_deciding_alone(library: build.Library) -> None:
    """As where all gradients lie on other devices, or were measured before."""
    compare(Case((), ranges=0), library, steps=3)
    worlds = Worlds(Case(MIXED, ranges=3), library)
    for made in worlds.all:
        made.inner("partials")[:] = np.random.default_rng(1).random(made.slots)
        made.table, made.elements = MeasureTable([]), []
    worlds.step()


# ---- Deciding


@pytest.mark.parametrize("max_norm", [np.inf, 0.0, 1e-3, 1.0, 1e9])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1.0, 1e20, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(("skip", "narrow"), [(False, True), (True, False), (True, True)])
def test_norms_of_every_kind(value: float, max_norm: float, skip: bool, narrow: bool, library: build.Library) -> None:
    cohorts = (Cohort(), Cohort(wide=True))
    case = Case((Measured(1),), cohorts, max_norm=max_norm, skip_nonfinite=skip, narrow=narrow)
    worlds = Worlds(case, library)
    for made in worlds.all:
        element = made.held[0][cases.GUARD : cases.GUARD + 4].view(np.float32)
        element[:] = value
        made.elements[0][:] = element
    worlds.step()
    worlds.step()
    got = worlds.cuda
    skipped = skip and (not np.isfinite(value) or (narrow and value == 1e20 and max_norm == np.inf))
    assert number(got, SKIPS) == skipped
    assert got.inner("singles")[SKIP] == got.inner("doubles")[SKIP] == skipped
    assert list(got.inner("counts")) == [0 if skipped else 2] * 2


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, np.nan])
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_found_infinity_skips(format: Format, value: float, library: build.Library) -> None:
    case = Case((Measured(100),), found=(format, value), cohorts=(Cohort(count=5), Cohort(wide=True)))
    before = int(world(case).inner("control")[SKIPPED])
    made = compare(case, library, steps=3)
    skipped = 0 if value == 0.0 else 3
    assert made.inner("control")[SKIPPED] == before + skipped
    assert list(made.inner("counts")) == [8 - skipped, 3 - skipped]


def test_a_step_after_a_skipped_one_is_taken(library: build.Library) -> None:
    case = Case((Measured(10),), found=(FLOAT32, 1.0), cohorts=(Cohort(), Cohort(wide=True)))
    worlds = Worlds(case, library)
    for infinities in (1.0, 0.0, 1.0, 0.0):
        for made in worlds.all:
            made.held[-1][0] = infinities
        worlds.step()
        assert worlds.cuda.inner("singles")[SKIP] == infinities
    assert list(worlds.cuda.inner("counts")) == [2, 2]


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_loss_scale_on_the_device(format: Format, library: build.Library) -> None:
    made = compare(Case(MIXED, loss_scale=512.0, scale_format=format, max_norm=1.0), library)
    assert number(made, FACTOR) == number(made, CLIP) / 512.0


@pytest.mark.parametrize("interval", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 65536.0, 1.1, 1e-44, 2.0**127])
def test_the_loss_scaler(scale: float, interval: int, library: build.Library) -> None:
    """It grows after so many steps, not to infinity, and backs off where an infinity is found."""
    case = Case((Measured(10),), scaler=Scaler(scale, interval=interval), skip_nonfinite=True, found=(FLOAT32, 0.0))
    worlds = Worlds(case, library)
    scales = []
    for found in (0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0):
        for made in worlds.all:
            made.held[-1][0] = found
        worlds.step()
        scales.append(float(worlds.cuda.inner("scaler").view(np.float32)[0]))
    assert all(np.isfinite(scales))
    if scale == 65536.0:
        assert scales[3] == 65536.0 * 2 ** (4 // interval)
        assert scales[4] == scales[3] / 2


# ---- Advancing

COHORTS = tuple(
    Cohort(
        count=count,
        lr=0.1 / (1 + k),
        betas=betas,
        decay=(0.0, 0.01)[k % 2],
        decoupled=k % 4 > 1,
        maximize=k % 3 == 1,
        bias_correction=k % 5 != 2,
        eps_hat=k % 7 > 4,
        averaging=k % 3,
        average_decay=(0.0, 0.9, 0.999)[k % 9 // 3],
        wide=wide,
    )
    for k, (count, betas, wide) in enumerate(
        (count, betas, wide)
        for count in (0, 1, 2, 9, 1000, 123_456_789, 2**40)
        for betas in ((0.9, 0.999), (0.0, 0.0), (0.5, 0.9999999))
        for wide in (False, True)
    )
)


FIRST_RULES = [optimizer.algorithm.rules[0] for optimizer in OPTIMIZERS.values()]
"""Of each optimizer one, since its rules share their coefficients."""


@pytest.mark.parametrize("scale", [1e-320, 2.0**-140, 1e300])
@pytest.mark.parametrize("rule", FIRST_RULES, ids=lambda rule: rule.name)
def test_coefficients_are_held_within_the_format(rule: Rule, scale: float, library: build.Library) -> None:
    cohorts = [
        Cohort(wide=wide, lr=rate, lr_format=FLOAT64, decay=1e30, decoupled=True)
        for wide in (False, True)
        for rate in (1e-300, 1e39, 1.7e308)
    ]
    made = compare(Case(cohorts=tuple(cohorts), rule=rule, ranges=0, loss_scale=scale, scale_format=FLOAT64), library)
    assert np.isfinite(made.inner("singles")).all()
    assert np.isfinite(made.inner("doubles")).all()


@pytest.mark.parametrize("rule", FIRST_RULES, ids=lambda rule: rule.name)
def test_rows_of_every_kind(rule: Rule, library: build.Library) -> None:
    compare(Case((Measured(100),), COHORTS, rule, max_norm=0.5), library, steps=5)


def test_more_cohorts_than_threads(library: build.Library) -> None:
    case = Case((Measured(100),), tuple(Cohort(count=k, wide=k % 3 == 0) for k in range(700)))
    compare(case, library, steps=2)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_learning_rate_on_the_device(format: Format, wide: bool, library: build.Library) -> None:
    cohort = Cohort(lr=0.3, lr_format=format, wide=wide, decay=0.1, decoupled=True)
    compare(Case((), (cohort, replace(cohort, wide=not wide)), ranges=0), library, steps=2)


@pytest.mark.parametrize("first", [1, 3, 100])
def test_a_window_of_a_schedule(first: int, library: build.Library) -> None:
    """Its nearest entry counts before it and after it."""
    entries = tuple((0.1 / k, 0.9 - 0.01 * k, 0.99, 0.01 * k) for k in range(1, 5))
    cohorts = (Cohort(window=(first, entries)), Cohort(count=2, window=(first, entries[:1]), wide=True), Cohort())
    compare(Case((), cohorts, ranges=0), library, steps=8)


# ---- Generated


@st.composite
def cohorts(draw: st.DrawFn) -> Cohort:
    unit = st.floats(0.0, 1.0, exclude_max=True)
    window = None
    if draw(st.booleans()):
        entries = st.tuples(st.floats(0.0, 1.0), unit, unit, st.sampled_from([0.0, 0.01]))
        window = (draw(st.integers(1, 5)), tuple(draw(st.lists(entries, min_size=1, max_size=4))))
    return Cohort(
        count=draw(st.sampled_from([0, 1, 7, 1000]) | st.integers(0, 2**40)),
        lr=draw(st.floats(0.0, 10.0)),
        betas=(draw(unit), draw(unit)),
        eps=draw(st.floats(0.0, 1.0)),
        decay=draw(st.sampled_from([0.0, 0.1])),
        decoupled=draw(st.booleans()),
        maximize=draw(st.booleans()),
        bias_correction=draw(st.booleans()),
        eps_hat=draw(st.booleans()),
        averaging=draw(st.integers(0, 2)),
        average_decay=draw(unit),
        wide=draw(st.booleans()),
        lr_format=draw(st.none() | st.sampled_from(FORMATS)),
        window=window,
        rests=draw(st.booleans()),
    )


@st.composite
def generated(draw: st.DrawFn) -> Case:
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    gradients = []
    for _ in range(draw(st.integers(0, 8))):
        format, offset = draw(st.sampled_from(FORMATS)), draw(st.integers(0, 7))
        if draw(st.booleans()):
            walk = cases.strided(rng, draw(st.lists(st.integers(1, 12), max_size=4)))
            gradients.append(Measured(int(np.prod(walk.shape)), format, offset, walk))
        else:
            gradients.append(Measured(draw(st.integers(0, 3000) | st.sampled_from(SIZES)), format, offset))
    return Case(
        gradients=tuple(gradients),
        cohorts=tuple(draw(st.lists(cohorts(), min_size=1, max_size=4))),
        rule=draw(st.sampled_from(FIRST_RULES)),
        seed=seed,
        tame=draw(st.integers(0, 3)) > 0,
        sources=draw(st.integers(1, 2)),
        ranges=draw(st.integers(0, 3)) if gradients else 0,
        max_norm=draw(st.sampled_from([np.inf, 0.0, 1.0, 1e6])),
        loss_scale=draw(st.sampled_from([1.0, 1024.0])),
        skip_nonfinite=draw(st.booleans()),
        narrow=draw(st.booleans()),
        scale_format=draw(st.none() | st.sampled_from(FORMATS)),
        found=draw(st.none() | st.tuples(st.sampled_from(FORMATS), st.sampled_from([0.0, 1.0]))),
        scaler=draw(st.none() | st.builds(Scaler, interval=st.integers(1, 3), tracker=st.integers(0, 2))),
    )


@given(case=generated())
@settings(max_examples=200, deadline=None)
def test_generated_prologues(case: Case, library: build.Library) -> None:
    compare(case, library, steps=2)
