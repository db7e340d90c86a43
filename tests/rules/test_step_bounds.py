"""Section 2.1 of the paper: how long a step can be, and that the scale of the gradients does not matter.

The paper has two bounds with ε = 0: |Δ| ≤ α(1-β1)/√(1-β2) where (1-β1) > √(1-β2), and |Δ| ≤ α elsewhere. They are right in the scenarios
that it names, a single gradient among zeros and gradients that stay, and not for every sequence of gradients. What holds for every
sequence follows from Cauchy and Schwarz, with m = (1-β1) Σ β1^k g_k and v = (1-β2) Σ β2^k g_k², k counted back from step t:

    |Δ_t| ≤ α · √(1-β2^t)/(1-β1^t) · (1-β1)/√(1-β2) · √(Σ_{k<t} (β1²/β2)^k)

where the first fraction is bias correction. It is attained where gradients grow by β2/β1 a step, so none smaller holds. At β1 = 0 it is
the paper's first bound, at β1 = β2 it is α; in all other cases it is above both once t is large, at the defaults 7.3 α where the paper
has 3.2 α. For AdaMax, whose bound is α in the paper, it is likewise

    |Δ_t| ≤ α · (1-β1)/(1-β1^t) · Σ_{k<t} (β1/β2)^k

attained where gradients shrink by β2 a step: 1.009 α at the defaults, and α in the limit β2 → 1.

Steps are read off a parameter that is set to zero before each, so that they are rounded for themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpu_adam import GpuAdam, GpuAdaMax
from tests.support.reference import assert_same_bits
from tests.support.strategies import PROVE

ALPHA = 0.01
LONGEST = 30

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}

formats = st.sampled_from(sorted(UNIT))
# β2 from 1/2 on: from below, the second moment of a gradient that is long past would leave the normal numbers.
betas = st.tuples(
    st.one_of(st.sampled_from([0.0, 0.5, 0.9, 0.99]), st.floats(0, 0.999)),
    st.one_of(st.sampled_from([0.5, 0.9, 0.99, 0.999, 0.9999]), st.floats(0.5, 0.9999)),
)
nonzero = st.builds(math.copysign, st.floats(2.0**-10, 2.0**10, width=32), st.sampled_from([1.0, -1.0]))
dense = st.lists(nonzero, min_size=1, max_size=LONGEST)
sparse = st.lists(st.one_of(st.just(0.0), st.just(0.0), nonzero), min_size=1, max_size=LONGEST)
sequences = st.one_of(dense, sparse)
trajectories = st.builds(lambda first, rest: [first, *rest], nonzero, sequences)
"""With a first gradient that is not zero: with ε = 0 the parameter would become 0/0 and stay so."""

VARIANTS: list[dict[str, Any]] = [{}, {"amsgrad": True}, {"bias_correction": False}, {"eps_hat": True}]
variants = st.sampled_from(VARIANTS)

Make = Callable[[list[NDArray[Any]]], Any]


def adam(pair: tuple[float, float], **options: Any) -> Make:
    return lambda params: GpuAdam(params, lr=ALPHA, betas=pair, eps=0.0, **options)


def adamax(pair: tuple[float, float]) -> Make:
    return lambda params: GpuAdaMax(params, lr=ALPHA, betas=pair, eps=0.0)


def steps(make: Make, gradients: Sequence[float], name: str) -> list[float]:
    """How far each step moves in units of α, NaN as long as there was no gradient but zeros."""
    p = np.zeros(1, name)
    optimizer = make([p])
    moves = []
    for gradient in gradients:
        p[:] = 0
        optimizer.step([np.full(1, gradient, name)])
        moves.append(float(p[0]) / ALPHA)
    return moves


def weights(pair: tuple[float, float], name: str) -> tuple[float, float]:
    """1-β1 and 1-β2 as the format has them: the bounds are those of the betas that the moments decay with."""
    w1, w2 = (float(np.dtype(name).type(1 - beta)) for beta in pair)
    return w1, w2


def correction(pair: tuple[float, float], t: int) -> float:
    return math.sqrt(1 - pair[1] ** t) / (1 - pair[0] ** t)


def adam_bound(pair: tuple[float, float], t: int, name: str, corrected: bool = True) -> float:
    """The longest step t in units of α."""
    w1, w2 = weights(pair, name)
    ratio = (1 - w1) ** 2 / (1 - w2)
    bias = correction((1 - w1, 1 - w2), t) if corrected else 1.0
    return bias * w1 / math.sqrt(w2) * math.sqrt(sum(ratio**k for k in range(t)))


def adamax_bound(pair: tuple[float, float], t: int, name: str) -> float:
    w1, _ = weights(pair, name)
    beta2 = float(np.dtype(name).type(pair[1]))
    return w1 / (1 - (1 - w1) ** t) * sum(((1 - w1) / beta2) ** k for k in range(t))


def allowance(pair: tuple[float, float], t: int, name: str) -> float:
    """What rounding can add to a step, as a share of its bound.

    Two roundings a step in m and three in v, of which the root takes half, and at most ten outside the recursions; 1-β^t loses
    1/(1-β) roundings in float64, both in the optimizer and in the bound.
    """
    w1, w2 = weights(pair, name)
    return (4 * t + 10) * UNIT[name] + 4 * UNIT["float64"] * (1 / w1 + 1 / w2)


# How long a step can be.


@given(sequences, betas, formats, variants)
@PROVE
def test_no_step_is_longer_than_cauchy_and_schwarz_allow(
    gradients: list[float], pair: tuple[float, float], name: str, variant: dict[str, Any]
) -> None:
    corrected = variant.get("bias_correction", True)
    for t, move in enumerate(steps(adam(pair, **variant), gradients, name), start=1):
        if any(gradients[:t]):
            assert abs(move) <= adam_bound(pair, t, name, corrected) * (1 + allowance(pair, t, name))
        else:
            assert math.isnan(move), "0/0, as the arithmetic says"


@pytest.mark.parametrize("name", UNIT)
@pytest.mark.parametrize("pair", [(0.9, 0.999), (0.9, 0.99), (0.5, 0.9), (0.9, 0.9)])
def test_gradients_that_grow_by_beta2_over_beta1_attain_that_bound(pair: tuple[float, float], name: str) -> None:
    w1, w2 = weights(pair, name)
    gradients = [((1 - w2) / (1 - w1)) ** k for k in range(LONGEST)]
    for t, move in enumerate(steps(adam(pair), gradients, name), start=1):
        # The gradients are rounded as well.
        assert -move == pytest.approx(adam_bound(pair, t, name), rel=allowance(pair, t, name) + 2 * UNIT[name])


@given(sequences, st.floats(0.5, 0.9999), formats)
@PROVE
def test_with_equal_betas_no_step_is_longer_than_alpha(gradients: list[float], beta: float, name: str) -> None:
    """The mean of g is at most the root of the mean of g², if the means are the same: the paper's reason for its second bound."""
    for t, move in enumerate(steps(adam((beta, beta)), gradients, name), start=1):
        assert math.isnan(move) or abs(move) <= 1 + allowance((beta, beta), t, name)


@given(sequences, st.floats(0.5, 0.9999), formats)
@PROVE
def test_without_momentum_the_papers_first_bound_holds(gradients: list[float], beta2: float, name: str) -> None:
    w1, w2 = weights((0.0, beta2), name)
    assert w1 > math.sqrt(w2)
    for t, move in enumerate(steps(adam((0.0, beta2)), gradients, name), start=1):
        assert math.isnan(move) or abs(move) <= w1 / math.sqrt(w2) * (1 + allowance((0.0, beta2), t, name))


def test_with_momentum_the_papers_bounds_do_not_hold_for_every_sequence() -> None:
    """Where gradients grow for long enough, in either of the paper's cases."""
    for pair, papers, longest in (((0.9, 0.999), 0.1 / math.sqrt(0.001), 7.2), ((0.9, 0.99), 1.0, 2.3)):
        moves = steps(adam(pair, bias_correction=False), [(pair[1] / pair[0]) ** k for k in range(200)], "float64")
        assert -moves[-1] > longest > 2 * papers


# The paper's scenarios.


@given(betas, st.integers(1, LONGEST), st.integers(0, 5), nonzero, formats)
@PROVE
def test_one_gradient_among_zeros_takes_the_papers_longest_step(
    pair: tuple[float, float], at: int, after: int, gradient: float, name: str
) -> None:
    """(1-β1)/√(1-β2) at the gradient's own step, with what bias correction makes of it, and then (β1/√β2)^k of that."""
    w1, w2 = weights(pair, name)
    gradients = [0.0] * (at - 1) + [gradient] + [0.0] * after
    for variant, corrected in (({}, True), ({"bias_correction": False}, False)):
        moves = steps(adam(pair, **variant), gradients, name)
        for k, move in enumerate(moves[at - 1 :]):
            t = at + k
            expected = w1 / math.sqrt(w2) * ((1 - w1) / math.sqrt(1 - w2)) ** k
            expected *= correction((1 - w1, 1 - w2), t) if corrected else 1.0
            assert move == pytest.approx(-math.copysign(expected, gradient), rel=allowance(pair, t, name), abs=1e-30)


def test_the_papers_first_bound_is_reached_when_bias_is_no_more() -> None:
    moves = steps(adam((0.9, 0.999)), [0.0] * 40_000 + [3.0], "float64")
    assert -moves[-1] == pytest.approx(0.1 / math.sqrt(0.001), rel=1e-12)


@given(nonzero, betas, formats)
@PROVE
def test_gradients_that_stay_take_steps_of_alpha(gradient: float, pair: tuple[float, float], name: str) -> None:
    for make in (adam(pair), adam(pair, amsgrad=True), adam(pair, eps_hat=True), adamax(pair)):
        for t, move in enumerate(steps(make, [gradient] * LONGEST, name), start=1):
            assert move == pytest.approx(-math.copysign(1, gradient), rel=allowance(pair, t, name))


# AdaMax.


@given(sequences, betas, formats)
@PROVE
def test_no_step_of_adamax_is_longer_than_its_norm_allows(
    gradients: list[float], pair: tuple[float, float], name: str
) -> None:
    for t, move in enumerate(steps(adamax(pair), gradients, name), start=1):
        if any(gradients[:t]):
            assert abs(move) <= adamax_bound(pair, t, name) * (1 + allowance(pair, t, name))
        else:
            assert math.isnan(move)


@pytest.mark.parametrize("name", UNIT)
def test_gradients_that_shrink_by_beta2_attain_that_bound(name: str) -> None:
    """Which is above the paper's α, by 0.9 % at most with the default betas."""
    pair = (0.9, 0.999)
    moves = steps(adamax(pair), [float(np.dtype(name).type(0.999)) ** k for k in range(200)], name)
    for t, move in enumerate(moves, start=1):
        assert -move == pytest.approx(adamax_bound(pair, t, name), rel=allowance(pair, t, name))
    assert 1.009 < -moves[-1] < 1.0092


@given(sequences, st.sampled_from([0.0, 0.5, 0.9]), formats)
@PROVE
def test_where_the_norm_forgets_slowly_adamaxs_steps_are_at_most_alpha(
    gradients: list[float], beta1: float, name: str
) -> None:
    """The paper's bound, in the limit β2 → 1: it lacks a share of about (1-β2)·β1/(1-β1)."""
    pair = (beta1, 1 - 1e-6)
    lacks = 1e-6 * beta1 / (1 - beta1)
    for t, move in enumerate(steps(adamax(pair), gradients, name), start=1):
        assert math.isnan(move) or abs(move) <= (1 + 1.1 * lacks) * (1 + allowance(pair, t, name))


# The scale of the gradients.


@given(trajectories, betas, st.integers(-20, 20), formats, st.sampled_from([*VARIANTS, None]))
@PROVE
def test_powers_of_two_change_no_bit(
    gradients: list[float], pair: tuple[float, float], power: int, name: str, variant: dict[str, Any] | None
) -> None:
    """They scale m and √v without rounding; ``None`` is AdaMax."""
    make = adamax(pair) if variant is None else adam(pair, **variant)
    p, q = np.full(1, 0.75, name), np.full(1, 0.75, name)
    one, other = make([p]), make([q])
    for gradient in gradients:
        one.step([np.full(1, gradient, name)])
        other.step([np.full(1, math.ldexp(gradient, power), name)])
        assert_same_bits(q, p)
    assert np.isfinite(p).all()


@given(trajectories, betas, st.floats(1e-3, 1e3), formats, st.sampled_from([*VARIANTS, None]))
@PROVE
def test_other_scales_change_roundings_only(
    gradients: list[float], pair: tuple[float, float], scale: float, name: str, variant: dict[str, Any] | None
) -> None:
    make = adamax(pair) if variant is None else adam(pair, **variant)
    plain, scaled = (steps(make, [c * g for g in gradients], name) for c in (1.0, scale))
    for t, (move, other) in enumerate(zip(plain, scaled, strict=True), start=1):
        corrected = variant is None or variant.get("bias_correction", True)
        longest = adamax_bound(pair, t, name) if variant is None else adam_bound(pair, t, name, corrected)
        # Each is within its allowance of the exact step, and the scaled gradients are rounded once more.
        assert abs(move - other) <= longest * (2 * allowance(pair, t, name) + 2 * UNIT[name])
