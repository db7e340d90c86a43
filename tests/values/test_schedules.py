"""Schedules: their ends, what lies between, what they print, and that an optimizer goes by them."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_adam import GpuAdam
from gpu_adam.schedules import constant, cosine, exponential_decay, inverse_sqrt, linear
from tests.support.reference import assert_same_bits

Falling = Callable[..., Callable[[int], float]]
FALLING: list[Falling] = [linear, cosine]
WARMED: list[Callable[[int], Callable[[int], float]]] = [
    lambda w: constant(0.3, w),
    lambda w: linear(0.3, 1000, end=0.1, warmup_steps=w),
    lambda w: cosine(0.3, 1000, end=0.1, warmup_steps=w),
]
EXAMPLES: list[Callable[[int], float]] = [
    constant(0.1, 3),
    linear(0.1, 10, end=0.01, warmup_steps=3),
    cosine(0.1, 10, end=0.01, warmup_steps=3),
    inverse_sqrt(0.1),
    exponential_decay(0.9, 0.99),
]

# Three roundings in float64, of numbers no larger than the result's bound.
ROUNDINGS = 3 * 2.0**-53
SMALLEST = 3 * 2.0**-1074
"""The same among subnormal numbers."""

rates = st.floats(0, 1e3)
counts = st.integers(0, 50)


# The ends.


@pytest.mark.parametrize("make", WARMED)
@pytest.mark.parametrize("warmup", [1, 2, 7, 999])
def test_warming_up_rises_in_equal_steps_to_the_whole(
    make: Callable[[int], Callable[[int], float]], warmup: int
) -> None:
    schedule = make(warmup)
    assert schedule(warmup) == 0.3
    for t in range(1, warmup):
        assert schedule(t) == pytest.approx(0.3 * t / warmup, rel=1e-15)


@pytest.mark.parametrize("make", WARMED)
def test_without_a_warm_up_the_first_step_has_the_whole(make: Callable[[int], Callable[[int], float]]) -> None:
    assert make(0)(1) == 0.3


def test_a_constant_stays() -> None:
    assert {constant(0.3)(t) for t in (1, 2, 1000, 10**12)} == {0.3}
    assert {constant(0.3, 5)(t) for t in (5, 6, 1000, 10**12)} == {0.3}


@pytest.mark.parametrize("make", FALLING)
@given(lr=rates, end=rates, warmup=counts, more=st.integers(1, 50))
def test_the_ends_are_exact_and_nothing_lies_outside_them(
    make: Falling, lr: float, end: float, warmup: int, more: int
) -> None:
    steps = max(warmup, 1) + more
    schedule = make(lr, steps, end=end, warmup_steps=warmup)
    assert schedule(max(warmup, 1)) == lr
    assert {schedule(t) for t in (steps, steps + 1, 2 * steps, 10**9)} == {end}
    low, high = min(lr, end), max(lr, end)
    values = [schedule(t) for t in range(max(warmup, 1), steps + 1)]
    error = high * ROUNDINGS + SMALLEST
    assert max(0.0, low - error) <= min(values)
    assert max(values) <= high + error
    between = values[1:-1] if lr >= end else values[-2:0:-1]
    assert all(before >= after for before, after in pairwise(between))


# What lies between.


def test_linear_is_a_straight_line() -> None:
    schedule = linear(1.0, 13, end=0.25, warmup_steps=3)
    for t in range(3, 14):
        x = Fraction(t - 3, 10)
        assert schedule(t) == pytest.approx(float((1 - x) + x / 4), rel=ROUNDINGS)


def test_cosine_is_half_a_period() -> None:
    schedule = cosine(1.0, 101)
    assert schedule(51) == pytest.approx(0.5, rel=1e-15)
    for t in range(1, 102):
        assert schedule(t) + schedule(102 - t) == pytest.approx(1.0, rel=1e-15)
        assert schedule(t) == pytest.approx(math.cos(math.pi * (t - 1) / 200) ** 2, abs=1e-15)


@pytest.mark.parametrize(("name", "warmup"), [("LinearLR", 0), ("CosineAnnealingLR", 0)])
def test_pytorchs_schedulers_give_the_same(name: str, warmup: int) -> None:
    """PyTorch counts from 0 and comes to the end one step after its number of steps."""
    torch = pytest.importorskip("torch")
    steps = 20
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.5)
    if name == "LinearLR":
        theirs = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.2, steps)
        ours: Callable[[int], float] = linear(0.5, steps + 1, end=0.1)
    else:
        theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 0.1)
        ours = cosine(0.5, steps + 1, end=0.1)
    for t in range(1, steps + 2):
        assert ours(t) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


def test_the_papers_decays() -> None:
    """Theorem 4.1: α/√t and β1·λ^(t-1)."""
    for t in (1, 2, 3, 100, 10**6):
        assert inverse_sqrt(0.3)(t) == 0.3 / math.sqrt(t)
        assert exponential_decay(0.9, 0.999)(t) == 0.9 * 0.999 ** (t - 1)
    assert exponential_decay(0.9, 0.5)(10**6) == 0.0
    assert exponential_decay(0.9, 1.0)(10**6) == 0.9
    assert exponential_decay(0.0, 0.5)(1) == 0.0


# As values.


@pytest.mark.parametrize("schedule", EXAMPLES, ids=lambda schedule: type(schedule).__name__)
def test_schedules_are_values(schedule: Callable[[int], float]) -> None:
    names = {type(one).__name__: type(one) for one in EXAMPLES}
    for other in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule), eval(repr(schedule), names)):
        assert other == schedule
        assert hash(other) == hash(schedule)
        assert [other(t) for t in range(1, 15)] == [schedule(t) for t in range(1, 15)]
    assert [one for one in EXAMPLES if one == schedule] == [schedule]


def test_they_print_as_the_call_that_makes_them() -> None:
    assert repr(cosine(np.float32(0.5), np.int64(10))) == "cosine(lr=0.5, steps=10, end=0.0, warmup_steps=0)"
    assert repr(exponential_decay(0.9, 0.5)) == "exponential_decay(beta=0.9, decay=0.5)"


def test_they_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        constant(0.1).lr = 0.2  # type: ignore[misc]


# What is refused.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: constant(-1.0), "lr=-1.0 of the schedule constant: must be in"),
        (lambda: linear(math.nan, 10), "lr=nan of the schedule linear: must be in"),
        (lambda: cosine(math.inf, 10), "lr=inf of the schedule cosine: must be in"),
        (lambda: inverse_sqrt(-0.5), "lr=-0.5 of the schedule inverse_sqrt: must be in"),
        (lambda: linear(0.1, 10, end=-1.0), "end=-1.0 of the schedule linear: must be in"),
        (lambda: linear(0.1, 0), "steps=0 of the schedule linear: must be at least 2"),
        (lambda: cosine(0.1, 1), "steps=1 of the schedule cosine: must be at least 2"),
        (lambda: cosine(0.1, 10, warmup_steps=10), "steps=10 of the schedule cosine: must be at least 11"),
        (lambda: constant(0.1, -1), "warmup_steps=-1 of the schedule constant: must be at least 0"),
        (lambda: exponential_decay(1.0, 0.5), r"beta=1.0 of the schedule exponential_decay: must be in \[0, 1\)"),
        (lambda: exponential_decay(0.9, 0.0), r"decay=0.0 of the schedule exponential_decay: must be in \(0, 1\]"),
        (lambda: exponential_decay(0.9, 1.1), r"decay=1.1 of the schedule exponential_decay: must be in \(0, 1\]"),
    ],
)
def test_numbers_out_of_range_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: constant("fast"), "lr='fast' of the schedule constant: must be a"),  # type: ignore[arg-type]
        (lambda: linear(0.1, 10.0), "steps=10.0 of the schedule linear: must be a whole number"),  # type: ignore[arg-type]
        (lambda: cosine(0.1, True), "steps=True of the schedule cosine: must be a whole number"),
        (lambda: constant(0.1, None), "warmup_steps=None of the schedule constant: must be a whole number"),  # type: ignore[arg-type]
        (lambda: exponential_decay(0.9, None), "decay=None of the schedule exponential_decay: must be a number"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_number_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize("schedule", EXAMPLES, ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("t", [0, -1])
def test_there_is_no_step_before_the_first(schedule: Callable[[int], float], t: int) -> None:
    with pytest.raises(ValueError, match=f"t={t}: steps are numbered from 1"):
        schedule(t)


# In an optimizer.


SCHEDULED: dict[str, Any] = {
    "lr": linear(0.1, 8, end=0.01, warmup_steps=3),
    "betas": (exponential_decay(0.9, 0.9), constant(0.99)),
    "weight_decay": cosine(0.1, 6),
}


def trained(steps: int, **options: Any) -> GpuAdam:
    optimizer = GpuAdam([np.linspace(-1, 1, 50, dtype=np.float32)], **options)
    for k in range(steps):
        optimizer.step([np.cos(np.arange(50, dtype=np.float32) + k)])
    return optimizer


@pytest.mark.parametrize("options", [{}, {"decoupled_weight_decay": True, "amsgrad": True}])
@pytest.mark.parametrize("measured", [False, True])
def test_a_step_takes_each_value_of_its_number(options: dict[str, Any], measured: bool) -> None:
    """As if the numbers had been written into the group before each step, also where the device computes the coefficients."""
    p, q = (np.linspace(-1, 1, 50, dtype=np.float32) for _ in range(2))
    scheduled = GpuAdam([p], **SCHEDULED, **options, max_grad_norm=math.inf if measured else None)
    edited = GpuAdam([q], **options)
    beta1, beta2 = SCHEDULED["betas"]
    for t in range(1, 12):
        g = np.cos(np.arange(50, dtype=np.float32) + t)
        scheduled.step([g])
        edited.param_groups[0].update(
            lr=SCHEDULED["lr"](t), betas=(beta1(t), beta2(t)), weight_decay=SCHEDULED["weight_decay"](t)
        )
        edited.step([g])
        assert_same_bits(p, q, f"step {t}")


def test_a_saved_run_goes_on_along_its_schedule() -> None:
    whole, half = trained(8, **SCHEDULED), trained(4, **SCHEDULED)
    other = pickle.loads(pickle.dumps(half))
    assert other.param_groups[0]["lr"] == SCHEDULED["lr"]
    for k in range(4, 8):
        other.step([np.cos(np.arange(50, dtype=np.float32) + k)])
    assert_same_bits(other.params[0], whole.params[0])
