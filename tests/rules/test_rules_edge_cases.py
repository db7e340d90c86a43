"""What has broken other optimizers, with every rule: nothing to do, nothing to move, nothing to divide by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.reference import DTYPES, assert_same_bits
from tests.support.rule_cases import Settings, each
from tests.support.shipped import OPTIMIZERS
from tests.support.strategies import special_values


def without_decay(settings: Settings) -> dict[str, Any]:
    return {
        key: value for key, value in settings.items() if "decay" not in key or key in ("lr_decay", "momentum_decay")
    }


@each
def test_zero_gradients_leave_every_bit_alone(name: str, settings: Settings) -> None:
    p = special_values(DTYPES["float32"])
    p = p[~np.isnan(p)]
    if settings.get("maximize"):
        # The gradient is then -0, and what it adds to -0 is +0 by some rules' arithmetic.
        p = p[(p != 0) | ~np.signbit(p)]
    before = p.copy()
    optimizer = OPTIMIZERS[name]([p], **without_decay(settings))
    for _ in range(3):
        optimizer.step([np.zeros_like(p)])
    assert_same_bits(p, before)


@each
def test_a_learning_rate_of_zero_moves_nothing_and_keeps_the_states(name: str, settings: Settings) -> None:
    p = np.linspace(-1, 1, 9)
    optimizer = OPTIMIZERS[name]([p], **{**without_decay(settings), "lr": 0.0})
    optimizer.step([np.ones(9)])
    assert np.array_equal(p, np.linspace(-1, 1, 9))
    states = optimizer.state_dict()["state"][0]
    assert all(
        np.any(states[state]) for state in OPTIMIZERS[name].algorithm.rule_of(optimizer.param_groups[0], "").states
    )


@each
def test_empty_tensors_anywhere(name: str, settings: Settings) -> None:
    params = [np.ones(n, np.float32) for n in (0, 3, 0, 0, 5, 0)]
    optimizer = OPTIMIZERS[name](params, **settings)
    optimizer.step([np.ones_like(p) for p in params])
    assert all(np.isfinite(p).all() and not (p == 1).any() for p in params)
    nothing = OPTIMIZERS[name]([np.ones(0, np.float32)], **settings)
    nothing.step([np.ones(0, np.float32)])


@pytest.mark.parametrize("name", ["GpuAdam", "GpuAdaMax", "GpuNAdam", "GpuAdaGrad", "GpuRmsProp", "GpuAdaDelta"])
def test_without_epsilon_zero_gradients_are_zero_by_zero(name: str) -> None:
    p = np.ones(3, np.float32)
    OPTIMIZERS[name]([p], eps=0.0).step([np.array([0, 1, 0], np.float32)])
    assert np.isnan(p).tolist() == [True, name == "GpuAdaDelta" and bool(np.isnan(p[1])), True]
