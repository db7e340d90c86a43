"""What a step begins with: the sums of squares in their order, the decision, and the coefficients."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FORMATS, Format
from gpu_adam.kernels.abi import LEAF, LEAF_LANES, SKIPS, SUM_LANES, TICKET
from gpu_adam.kernels.specialization import PrologueKernel
from gpu_adam.strides import Walk
from tests.kernels.numba_simulator.machine import Machine, Simulator
from tests.support.cuda_cpp import prologues
from tests.support.cuda_cpp.prologue_cases import Case, Cohort, Measured, Scaler, World, world
from tests.support.cuda_cpp.prologues import assert_same, expect
from tests.support.shipped import OPTIMIZERS


def check(case: Case, steps: int = 1) -> World:
    """Run the kernel and what is expected of it, and compare; the memory of the kernel's."""
    got, expected = world(case), world(case)
    machine = Machine()
    allow(machine, got)
    simulator = Simulator(machine)
    simulator.add(PrologueKernel(case.rule), f"{case.rule.symbol}_prologue")
    for _ in range(steps):
        prologues.run(got, simulator)
        expect(expected)
        assert_same(got, expected)
        assert got.inner("control")[TICKET] == 0
    return got


def allow(machine: Machine, made: World) -> None:
    """Let the kernel touch what it is handed, and none of the guards."""
    machine.bounds.add_array(made.table.words)
    for name in made.arrays:
        machine.bounds.add_array(made.inner(name))
    on_another = made.case.sources == 2
    here = [one for k, one in enumerate(made.case.gradients) if one.size and not (on_another and k % 2)]
    for one, pointer in zip(here, made.table.pointers, strict=True):
        if one.absent:
            continue
        walk = one.walk or Walk((one.size,), (1,), (1,))
        ends = [(n - 1) * s for n, s in zip(walk.shape, walk.grad, strict=True)]
        low, high = sum(e for e in ends if e < 0), sum(e for e in ends if e > 0)
        itemsize = one.format.itemsize
        machine.bounds.add(int(pointer) + low * itemsize, int(pointer) + (high + 1) * itemsize, made)
    for scalar in made.held:
        if scalar.size == 1:
            machine.bounds.add_array(scalar)


SIZES = (1, 3, 8, LEAF_LANES - 1, LEAF_LANES, LEAF_LANES + 5, LEAF - 1, LEAF, LEAF + 1, 2 * LEAF + 333)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def simulated_measure_every_size_and_alignment(format: Format) -> None:
    """Several blocks, tails of every kind, gradients that are aligned and such that are not."""
    gradients = [Measured(size, format, offset) for offset, sizes in ((0, SIZES), (1, SIZES[::2])) for size in sizes]
    check(Case(gradients=tuple(gradients)))


WALKS = (
    Walk((7,), (1,), (3,)),
    Walk((1500,), (1,), (-1,)),
    Walk((40, 30), (30, 1), (1, 40)),
    Walk((3, 5, 7), (35, 7, 1), (70, -14, 2)),
    Walk((2,) * 8, (128, 64, 32, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 32, 64, 128)),
)


def simulated_measure_strided_and_of_mixed_formats() -> None:
    strided = [
        Measured(int(np.prod(walk.shape)), FORMATS[k % 4], k % 3, walk) for k, walk in enumerate((*WALKS, *WALKS[::-1]))
    ]
    between = [Measured(size, FORMATS[k % 4], k % 2) for k, size in enumerate((200, 0, 1025, 64))]
    check(Case(gradients=(*strided[:5], *between, *strided[5:]), ranges=3), steps=2)


def simulated_measure_some_that_are_absent() -> None:
    walked = [
        Measured(int(np.prod(walk.shape)), FORMATS[k % 4], k % 3, walk, k % 2 == 0) for k, walk in enumerate(WALKS)
    ]
    flat = [Measured(size, FORMATS[k % 4], k % 3, None, k % 3 == 0) for k, size in enumerate(SIZES)]
    check(Case(gradients=(*walked, *flat), max_norm=1.0), steps=2)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def simulated_measure_wild_numbers(format: Format) -> None:
    """Zeros of both signs, subnormals, infinities and NaN among the elements."""
    check(Case(gradients=(Measured(3000, format), Measured(70, format, 1)), tame=False, seed=3))


def simulated_measure_alone() -> None:
    """Where gradients lie on several devices the first stage runs by itself."""
    check(Case(gradients=(Measured(700), Measured(5, FLOAT16)), finish=False))


def simulated_decide_over_sums_of_two_devices() -> None:
    check(Case(gradients=(Measured(700), Measured(5), Measured(2000, BFLOAT16)), sources=2, ranges=2, max_norm=1.0))


def simulated_decide_over_many_slots() -> None:
    """More partial sums than a thread takes in one round, all of another device."""
    got = check(Case(gradients=(Measured(10), Measured(17 * SUM_LANES * LEAF, FLOAT16)), sources=2, max_norm=0.5))
    assert got.slots > 16 * SUM_LANES


COHORTS = (
    Cohort(),
    Cohort(count=9, decay=0.1, wide=True, eps_hat=True),
    Cohort(count=99, decay=0.1, decoupled=True, maximize=True, averaging=1),
    Cohort(count=3, averaging=2, wide=True, bias_correction=False),
    Cohort(count=1, lr_format=BFLOAT16, averaging=2),
    Cohort(count=5, window=(5, ((0.1, 0.8, 0.9, 0.0), (0.2, 0.7, 0.95, 0.5), (0.3, 0.6, 0.96, 0.5)))),
    Cohort(count=50, window=(5, ((0.1, 0.8, 0.9, 0.0), (0.2, 0.7, 0.95, 0.5))), wide=True, lr_format=FLOAT64),
    Cohort(count=7, rests=True),
    Cohort(count=7, rests=True, wide=True),
)
GRADIENTS = (Measured(300), Measured(1100, FLOAT16))


@pytest.mark.parametrize("optimizer", ["GpuAdam", "GpuNAdam", "GpuSgd"])  # powers, a loop, a first step of its own
def simulated_decide_coefficients(optimizer: str) -> None:
    """Every kind of record, over several steps, without gradients."""
    check(Case(cohorts=COHORTS, rule=OPTIMIZERS[optimizer].algorithm.rules[0], ranges=0, loss_scale=8.0), steps=4)


def simulated_decide_more_cohorts_than_threads() -> None:
    check(Case(cohorts=tuple(Cohort(count=k, wide=k % 3 == 0) for k in range(300)), ranges=0))


@pytest.mark.parametrize("max_norm", [1e-3, 1e9, np.inf])
def simulated_decide_on_the_clip_factor(max_norm: float) -> None:
    check(Case(GRADIENTS, COHORTS, ranges=3, max_norm=max_norm, loss_scale=4.0, scale_format=FLOAT32))


@pytest.mark.parametrize("skip", [False, True])
def simulated_decide_on_skipping(skip: bool) -> None:
    check(Case(GRADIENTS, COHORTS, tame=False, seed=1, max_norm=1.0, skip_nonfinite=skip), steps=2)


@pytest.mark.parametrize("max_norm", [1.0, np.inf])
@pytest.mark.parametrize("narrow", [False, True])
def simulated_decide_on_a_square(narrow: bool, max_norm: float) -> None:
    """Of a norm that is finite: it may be beyond float32."""
    large = Case(GRADIENTS, COHORTS, loss_scale=1e-25, max_norm=max_norm, skip_nonfinite=True, narrow=narrow)
    got = check(large, steps=2)
    assert got.inner("control").view(np.float64)[SKIPS] == (narrow and max_norm == np.inf)


@pytest.mark.parametrize("found", [0.0, 1.0])
@pytest.mark.parametrize("format", FORMATS, ids=str)
def simulated_decide_on_what_was_found(format: Format, found: float) -> None:
    check(Case(GRADIENTS[:1], found=(format, found), scaler=Scaler(tracker=1)), steps=3)


@pytest.mark.parametrize("scale", [1024.0, 2.0**127])
def simulated_decide_on_the_loss_scale(scale: float) -> None:
    """It grows after its interval, but not to infinity."""
    check(Case(GRADIENTS, scaler=Scaler(scale=scale), skip_nonfinite=True), steps=4)
