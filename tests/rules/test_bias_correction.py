"""Section 3 of the paper: the moments begin at zero and are too small for it, and what that does to the first steps.

E[v_t] = E[g²]·(1-β2^t) + ζ, where ζ = 0 if the gradients' second moment stays, and likewise for m. Without correction the step is
therefore (1-β1^t)/√(1-β2^t) times the corrected one, whatever the gradients: (1-β1)/√(1-β2) at t = 1, which is large with β2 near 1.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpu_adam import GpuAdam, GpuAdaMax
from tests.support.strategies import PROVE

BETAS = [(0.0, 0.9), (0.0, 0.999), (0.9, 0.99), (0.9, 0.999), (0.9, 0.9999), (0.5, 0.5)]
TIMES = [1, 2, 3, 10, 100, 1000]

ALPHA = 0.01

# Relative: some roundings a step in float64, of 1.1e-16 each; after 1000 steps the most of them have been forgotten or cancel.
ROUNDING = 1e-12

# For means of random numbers, in standard errors: the seed is fixed, and one seed in 10^6 would be outside.
DEVIATIONS = 5.0

Floats = NDArray[np.float64]


def factor(betas: tuple[float, float], t: int) -> float:
    """The text's: how many times as long step t is without correction."""
    return (1 - betas[0] ** t) / math.sqrt(1 - betas[1] ** t)


def moments(optimizer: GpuAdam | GpuAdaMax, name: str) -> Floats:
    return np.asarray(optimizer.state_dict()["state"][0][name])


def moves(gradients: list[Floats], betas: tuple[float, float], bias_correction: bool) -> list[Floats]:
    """Each step, in units of α, from a parameter that is set to zero before it."""
    p = np.zeros(gradients[0].shape)
    optimizer = GpuAdam([p], lr=ALPHA, betas=betas, eps=0.0, bias_correction=bias_correction)
    steps = []
    for gradient in gradients:
        p[...] = 0
        optimizer.step([gradient])
        steps.append(-p / ALPHA)
    return steps


# The moments.


@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("betas", BETAS)
def test_moments_of_a_gradient_that_stays_are_too_small_by_the_texts_factor(
    betas: tuple[float, float], bias_correction: bool
) -> None:
    """The state has the uncorrected moments, also where the step corrects them."""
    gradient = np.array([1e-3, -0.7, 5.0])
    optimizer = GpuAdam([np.zeros(3)], betas=betas, bias_correction=bias_correction)
    for t in range(1, max(TIMES) + 1):
        optimizer.step([gradient])
        if t in TIMES:
            np.testing.assert_allclose(moments(optimizer, "exp_avg"), gradient * (1 - betas[0] ** t), rtol=ROUNDING)
            np.testing.assert_allclose(
                moments(optimizer, "exp_avg_sq"), gradient**2 * (1 - betas[1] ** t), rtol=ROUNDING
            )


@pytest.mark.parametrize("betas", BETAS)
def test_expected_moments_of_random_gradients_are_too_small_by_the_same_factor(betas: tuple[float, float]) -> None:
    count, mean = 50_000, 0.5
    rng = np.random.default_rng(3)
    optimizer = GpuAdam([np.zeros(count)], betas=betas)
    for t in range(1, 31):
        optimizer.step([rng.normal(mean, 1.0, count)])
        if t in (1, 3, 10, 30):
            for name, beta, expected in (("exp_avg", betas[0], mean), ("exp_avg_sq", betas[1], mean**2 + 1)):
                found = moments(optimizer, name)
                error = found.std() / math.sqrt(count)
                assert abs(found.mean() - expected * (1 - beta**t)) < DEVIATIONS * error


def test_of_gradients_that_change_the_past_remains_and_is_forgotten() -> None:
    """ζ: after a change of g² at step s it is (the old - the new)·(β2^(t-s) - β2^t)."""
    beta2, before, after, s = 0.9, 4.0, 0.25, 20
    optimizer = GpuAdam([np.zeros(1)], betas=(0.9, beta2))
    for t in range(1, 151):
        optimizer.step([np.full(1, math.sqrt(before if t <= s else after))])
        if t > s:
            zeta = (before - after) * (beta2 ** (t - s) - beta2**t)
            expected = after * (1 - beta2**t) + zeta
            np.testing.assert_allclose(moments(optimizer, "exp_avg_sq"), expected, rtol=ROUNDING)
    assert zeta < 1e-4 * expected


def test_the_norm_of_adamax_has_no_bias() -> None:
    """Section 7.1: it is the largest gradient from the first step on."""
    gradient = np.array([1e-3, -0.7, 5.0])
    optimizer = GpuAdaMax([np.zeros(3)], eps=0.0)
    for _ in range(3):
        optimizer.step([gradient])
        assert (moments(optimizer, "exp_inf") == abs(gradient)).all()


# The steps.


@pytest.mark.parametrize("betas", BETAS)
def test_without_correction_steps_are_the_texts_factor_too_long(betas: tuple[float, float]) -> None:
    gradients = [np.array([1e-3, -0.7, 5.0])] * max(TIMES)
    corrected, plain = (moves(gradients, betas, correct) for correct in (True, False))
    for t in TIMES:
        np.testing.assert_allclose(corrected[t - 1], [1, -1, 1], rtol=ROUNDING)
        np.testing.assert_allclose(plain[t - 1], factor(betas, t) * np.array([1, -1, 1]), rtol=ROUNDING)


@given(
    st.lists(st.floats(-1e3, 1e3).filter(lambda g: abs(g) > 1e-3), min_size=1, max_size=30),
    st.sampled_from(BETAS),
)
@PROVE
def test_that_is_so_whatever_the_gradients(gradients: list[float], betas: tuple[float, float]) -> None:
    arrays = [np.full(1, gradient) for gradient in gradients]
    pairs = zip(*(moves(arrays, betas, correct) for correct in (True, False)), strict=True)
    for t, (corrected, plain) in enumerate(pairs, start=1):
        # Both begin with the same m and v, bit by bit, so that nothing but the factor differs, even where m nearly cancels.
        np.testing.assert_allclose(plain, factor(betas, t) * corrected, rtol=ROUNDING)


def test_the_nearer_beta2_is_to_one_the_longer_are_the_first_steps() -> None:
    """(1-β1)/√(1-β2) at t = 1; with β1 = 0.9 they go on growing while m gathers, and are several times longer still."""
    for beta2, first, longest in ((0.99, 1.0, 2.1), (0.999, 3.16, 6.4), (0.9999, 10.0, 20.0)):
        plain = [float(step[0]) for step in moves([np.full(1, 0.3)] * 100, (0.9, beta2), False)]
        assert plain[0] == pytest.approx(first, rel=1e-3)
        assert plain[0] == pytest.approx((1 - 0.9) / math.sqrt(1 - beta2), rel=ROUNDING)
        assert max(plain) > longest
    assert moves([np.full(1, 0.3)], (0.0, 0.9999), False)[0] == pytest.approx(100.0)


# Where correction is not needed.


@pytest.mark.parametrize("betas", BETAS)
def test_late_enough_there_is_nothing_to_correct(betas: tuple[float, float]) -> None:
    """After 1/(1-β2) steps some are left, after ten times as many less than 1e-4."""
    t = round(10 / (1 - betas[1]))
    assert factor(betas, t) == pytest.approx(1.0, abs=1e-4)
    if t <= 10_000:
        gradients = [np.full(1, 0.3)] * t
        last = (moves(gradients, betas, correct)[-1] for correct in (True, False))
        np.testing.assert_allclose(*last, rtol=1e-4)


def test_with_small_beta2_and_no_momentum_the_first_step_hardly_needs_it() -> None:
    for beta2 in (0.3, 0.1, 0.01, 1e-3):
        (plain,) = moves([np.full(1, 0.3)], (0.0, beta2), False)
        assert 1 < plain[0] < 1 + beta2


def test_with_small_beta2_and_momentum_the_first_steps_are_too_short_instead() -> None:
    """m's own bias remains: (1-β1) at t = 1, which nobody diverges by."""
    plain = [float(step[0]) for step in moves([np.full(1, 0.3)] * 50, (0.9, 0.1), False)]
    assert plain[0] == pytest.approx(0.1 / math.sqrt(0.9), rel=ROUNDING)
    assert max(plain) <= 1 + ROUNDING


def test_a_gradient_that_comes_late_needs_it_less() -> None:
    """After a long silence the first gradient of an element takes the same step with and without: only there is 1-β2^t near 1."""
    betas, apart = (0.9, 0.999), []
    for silence in (0, 1000, 10_000):
        gradients = [np.zeros(1)] * silence + [np.full(1, 0.3)]
        corrected, plain = (float(moves(gradients, betas, correct)[-1][0]) for correct in (True, False))
        assert plain == pytest.approx((1 - 0.9) / math.sqrt(1 - 0.999), rel=ROUNDING)
        apart.append(plain / corrected)
    assert apart[0] == pytest.approx(3.16, rel=1e-3)
    assert apart[1] == pytest.approx(1.26, rel=1e-2)
    assert apart[2] == pytest.approx(1.0, abs=1e-4)
