"""The network of ``gpu-adam train``, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gpu_adam.dtypes import BFLOAT16
from gpu_adam.train.network import backward, forward, initial

# Central differences of step 1e-6 in float64: cancellation costs 1e-16 / 1e-6, the third derivative 1e-12.
DIFFERENCE_STEP = 1e-6
DIFFERENCE_TOLERANCE = 1e-8


@pytest.mark.parametrize("sizes", [(5, 3), (5, 7, 3), (5, 7, 4, 3)])
def test_the_gradient_is_that_of_the_loss(sizes: Sequence[int]) -> None:
    random = np.random.default_rng(0)
    params = initial(sizes, np.float64, random)
    for name in params:
        params[name] += 0.1 * random.standard_normal(params[name].shape)  # biases too
    x, targets = random.standard_normal((6, 5)), np.eye(3)[[0, 1, 2, 2, 1, 0]]
    grads = {name: np.full_like(value, np.nan) for name, value in params.items()}
    spare = {name: np.empty_like(value) for name, value in params.items()}
    backward(np, params, grads, x, targets)
    for name, value in params.items():
        for place in np.ndindex(value.shape):
            old = value[place]
            value[place] = old + DIFFERENCE_STEP
            above = backward(np, params, spare, x, targets)
            value[place] = old - DIFFERENCE_STEP
            below = backward(np, params, spare, x, targets)
            value[place] = old
            slope = (above - below) / (2 * DIFFERENCE_STEP)
            assert grads[name][place] == pytest.approx(slope, abs=DIFFERENCE_TOLERANCE), (name, place)


def test_a_network_that_knows_nothing_loses_the_logarithm_of_the_classes() -> None:
    params = {"w0": np.zeros((5, 10)), "b0": np.zeros(10)}
    grads = {name: np.empty_like(value) for name, value in params.items()}
    loss = backward(np, params, grads, np.ones((4, 5)), np.eye(10)[:4])
    assert loss == pytest.approx(np.log(10))


def test_large_logits_do_not_overflow() -> None:
    params = {"w0": np.diag([1e30, -1e30]).astype(np.float32), "b0": np.zeros(2, np.float32)}
    grads = {name: np.empty_like(value) for name, value in params.items()}
    loss = backward(np, params, grads, np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    assert np.isfinite(loss)
    assert all(np.isfinite(value).all() for value in grads.values())


def test_signals_keep_their_size_through_the_layers() -> None:
    params = initial((400, 400, 400, 400), np.float64, np.random.default_rng(0))
    *_, last = forward(np, params, np.random.default_rng(1).standard_normal((200, 400)))
    assert float((last**2).mean()) == pytest.approx(
        2, rel=0.2
    )  # a ReLU halves the square, and 2/inputs makes up for it


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16.dtype])
def test_parameters_of_16_bits_meet_activations_of_32(dtype: Any) -> None:
    params = initial((5, 7, 3), dtype, np.random.default_rng(0))
    assert {value.dtype for value in params.values()} == {np.dtype(dtype)}
    assert {value.dtype for value in forward(np, params, np.ones((2, 5), np.float32))} == {np.dtype(np.float32)}


def test_a_loss_scale_multiplies_what_is_stored_and_not_the_loss() -> None:
    random = np.random.default_rng(0)
    params = initial((5, 7, 3), np.float64, random)
    x, targets = random.standard_normal((6, 5)), np.eye(3)[[0, 1, 2, 2, 1, 0]]
    plain, scaled = ({name: np.empty_like(value) for name, value in params.items()} for _ in range(2))
    loss = backward(np, params, plain, x, targets)
    assert backward(np, params, scaled, x, targets, np.array(1024.0, np.float32)) == loss
    for name, value in plain.items():
        np.testing.assert_array_equal(scaled[name], 1024 * value)


@pytest.mark.parametrize(("dtype", "lost"), [(np.float16, True), (BFLOAT16.dtype, False)])
def test_a_loss_scale_saves_small_gradients_from_underflow(dtype: Any, lost: bool) -> None:
    """Those below 2^-25, which are 0 in float16; bfloat16 has the range of float32."""
    params = initial((5, 3), dtype, np.random.default_rng(0))
    x, targets = np.full((2, 5), 2.0**-26, np.float32), np.eye(3, dtype=np.float32)[:2]
    grads = {name: np.empty_like(value) for name, value in params.items()}
    backward(np, params, grads, x, targets)
    assert (grads["w0"] == 0).all() == lost
    backward(np, params, grads, x, targets, 1024.0)
    assert (grads["w0"] != 0).all()
