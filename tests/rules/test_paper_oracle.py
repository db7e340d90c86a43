"""Against Adam as the paper writes it, computed in float64 by `benchmarks.paper_oracle`, and against what the paper proves of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper_oracle import Adam
from gpu_adam import GpuAdam
from tests.support.reference import DTYPES
from tests.support.strategies import FEW

STEPS = 20

# Relative to the largest move that a parameter of size about 1 has made: the oracle orders its operations otherwise, so each step
# differs by some roundings.
TOLERANCE = {
    "float64": 1e-13,  # 2^-53 = 1.1e-16 an operation, about ten a step, added up over the steps
    "float32": 1e-5,  # 2^-24 = 6e-8 an operation; β rounded to float32 moves 1-β2 = 0.001 by up to 6e-8 of itself
    "float16": 2e-3,  # with a float32 master: half of 2^-10, the spacing at 1 to 2, with what float32 adds
    "bfloat16": 1.6e-2,  # the same with 2^-7
}

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "large lr": {"lr": 0.5},
    "other betas": {"betas": (0.5, 0.9)},
    "no momentum": {"betas": (0.0, 0.99)},
    "large eps": {"eps": 0.1},
    "L2 decay": {"weight_decay": 0.1},
    "decoupled decay": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "amsgrad": {"amsgrad": True},
    "maximize": {"maximize": True, "weight_decay": 0.1},
    "no bias correction": {"bias_correction": False},
    "eps_hat": {"eps_hat": True, "eps": 1e-4},
    "eps_hat without bias correction": {"eps_hat": True, "bias_correction": False, "eps": 1e-4},
    "lr falling with the root of t": {"lr": lambda t: 0.1 / math.sqrt(t)},
    "everything": {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True, "maximize": True, "eps_hat": True, "eps": 1e-6},
}


def problem(name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """A parameter between 0.5 and 1.5, and gradients of several magnitudes, both exact in the format."""
    rng = np.random.default_rng(7)
    scale = 10.0 ** rng.uniform(-2, 2, 50)
    gradients = [(scale * (0.5 + rng.standard_normal(50))).astype(DTYPES[name]) for _ in range(STEPS)]
    return rng.uniform(0.5, 1.5, 50).astype(DTYPES[name]), gradients


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("name", DTYPES)
def test_every_variant_follows_the_paper(name: str, variant: dict[str, Any]) -> None:
    p, gradients = problem(name)
    oracle, optimizer = Adam(p.astype(np.float64), **variant), GpuAdam([p], **variant)
    scale = 1.0
    for gradient in gradients:
        oracle.step(gradient.astype(np.float64))
        optimizer.step([gradient])
        scale = max(scale, float(abs(oracle.theta).max()))
    assert abs(p.astype(np.float64) - oracle.theta).max() <= TOLERANCE[name] * scale


def run(gradients: list[np.ndarray], start: Any = None, **options: Any) -> np.ndarray:
    p = np.zeros(gradients[0].shape) if start is None else np.array(start)
    optimizer = GpuAdam([p], **options)
    for gradient in gradients:
        optimizer.step([gradient])
    return p


def test_both_orderings_agree_when_eps_hat_is_eps_times_the_root_of_the_correction() -> None:
    # End of section 2: ε̂ = ε·√(1-β2^t).
    _, gradients = problem("float64")
    eps, beta2 = 1e-2, 0.999
    p, q = np.ones(50), np.ones(50)
    plain, hat = GpuAdam([p], eps=eps, betas=(0.9, beta2)), GpuAdam([q], eps_hat=True, betas=(0.9, beta2))
    for t, gradient in enumerate(gradients, start=1):
        hat.param_groups[0]["eps"] = eps * math.sqrt(1 - beta2**t)
        plain.step([gradient])
        hat.step([gradient])
        np.testing.assert_allclose(q, p, rtol=TOLERANCE["float64"])


def test_the_orderings_differ_when_the_epsilons_are_the_same() -> None:
    _, gradients = problem("float64")
    assert not np.allclose(run(gradients, eps=0.1), run(gradients, eps=0.1, eps_hat=True), rtol=1e-3)


@given(
    st.lists(st.floats(-1e3, 1e3).filter(lambda g: abs(g) > 1e-3), min_size=1, max_size=30),
    st.sampled_from([(0.9, 0.999), (0.9, 0.99), (0.5, 0.9), (0.0, 0.999)]),
)
@FEW
def test_a_step_is_bounded_as_section_2_1_says(gradients: list[float], betas: tuple[float, float]) -> None:
    beta1, beta2 = betas
    alpha = 0.01
    sparse = (1 - beta1) / math.sqrt(1 - beta2)
    # The paper's bounds are for a single gradient among zeros, and for m̂ and v̂ of the same history; √(1-β2^t)/(1-β1^t) is what bias
    # correction adds while t is small.
    p = np.zeros(1)
    optimizer = GpuAdam([p], lr=alpha, betas=betas, eps=0.0, bias_correction=False)
    for gradient in gradients:
        before = p.copy()
        optimizer.step([np.array([gradient])])
        bound = alpha * max(sparse, (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2)))
        assert abs(p - before)[0] <= bound * (1 + 1e-12)


def test_the_first_step_moves_by_the_learning_rate() -> None:
    gradients = [np.array([1e-3, -5.0, 1e6])]
    np.testing.assert_allclose(run(gradients, lr=0.01, eps=0.0), [-0.01, 0.01, -0.01], rtol=1e-15)


def test_after_a_long_silence_one_gradient_moves_by_the_sparse_bound() -> None:
    # (1-β1)/√(1-β2)·α, the paper's most severe case of sparsity, without the corrections that are 1 by then.
    p = run([np.zeros(1)] * 5 + [np.full(1, 3.0)], lr=0.01, eps=1e-300, bias_correction=False)
    np.testing.assert_allclose(-p, 0.01 * 0.1 / math.sqrt(0.001), rtol=1e-12)


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_scaling_all_gradients_leaves_the_steps_as_they_are(factor: float) -> None:
    # Powers of 2 scale without rounding, so with ε = 0 even the bits agree.
    _, gradients = problem("float64")
    assert (run(gradients, eps=0.0) == run([factor * gradient for gradient in gradients], eps=0.0)).all()


def test_maximize_is_descent_on_the_negated_gradient() -> None:
    _, gradients = problem("float32")
    assert (run(gradients, maximize=True) == run([-gradient for gradient in gradients])).all()


def test_amsgrad_never_takes_a_longer_step_than_adam_after_a_large_gradient() -> None:
    gradients = [np.array([g]) for g in (100.0, *([0.1] * 40))]
    assert abs(run(gradients, amsgrad=True)) < abs(run(gradients))


def test_l2_decay_is_the_gradient_of_half_the_squared_norm() -> None:
    _, gradients = problem("float64")
    p, q = np.ones(50), np.ones(50)
    decayed, by_hand = GpuAdam([p], weight_decay=0.25), GpuAdam([q])
    for gradient in gradients:
        decayed.step([gradient])
        by_hand.step([gradient + 0.25 * q])
    np.testing.assert_allclose(p, q, rtol=TOLERANCE["float64"])


def test_decoupled_decay_shrinks_by_lr_times_decay_whatever_the_gradient() -> None:
    p = np.full(3, 2.0)
    optimizer = GpuAdam([p], lr=0.1, weight_decay=0.5, decoupled_weight_decay=True)
    for _ in range(4):
        optimizer.step([np.zeros(3)])
    np.testing.assert_allclose(p, 2.0 * 0.95**4, rtol=1e-15)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("lr", [0.05, lambda t: 0.5 / math.sqrt(t)], ids=["constant", "falling"])
def test_a_quadratic_is_minimised(name: str, lr: float | Callable[[int], float]) -> None:
    w = np.zeros((3, 4), DTYPES[name])
    target = np.linspace(-1, 1, 12).reshape(3, 4).astype(DTYPES[name])
    optimizer = GpuAdam({"w": w}, lr=lr)
    for _ in range(400):
        optimizer.step({"w": w - target})
    assert float(abs(w.astype(np.float64) - target.astype(np.float64)).max()) < 0.02
