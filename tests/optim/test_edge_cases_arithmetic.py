"""The edge cases of arithmetic, lines 6 to 11 of the list in test_edge_cases.py, on the CPU engine."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.reference import DTYPES, Options, Reference, assert_same_bits
from tests.support.strategies import special_values, values

f32 = np.float32


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True}, {"maximize": True}, {"eps_hat": True}, {"bias_correction": False}], ids=str
)
def test_6_zero_gradients_without_decay_leave_the_bits(name: str, options: dict[str, Any]) -> None:
    p = special_values(DTYPES[name])
    with np.errstate(invalid="ignore"):  # one of the NaNs is a signalling one
        p = p[~np.isnan(p)].copy()
    before = p.copy()
    optimizer = GpuAdam([p], **options)
    for _ in range(3):
        optimizer.step([np.zeros_like(p)])
        optimizer.step([-np.zeros_like(p)])
    assert_same_bits(p, before)


def test_7_several_dtypes_in_one_group_step_once_a_call() -> None:
    params = [np.ones(5, dtype) for dtype in DTYPES.values()]
    optimizer = GpuAdam(params, lr=0.25, eps=0.0)
    for t in (1, 2, 3):
        optimizer.step([np.ones_like(p) for p in params])
        assert [state["step"] for state in optimizer.state_dict()["state"].values()] == [t] * 4
    assert all(abs(p.astype(float) - 0.25).max() < 1e-2 for p in params)


def test_8_a_learning_rate_of_zero_changes_the_moments_alone() -> None:
    p = values(DTYPES["float32"], 50, 1, special=0)
    before = p.copy()
    optimizer = GpuAdam([p], lr=0.0, weight_decay=0.1, decoupled_weight_decay=True)
    optimizer.step([np.ones(50, f32)])
    assert_same_bits(p, before)
    assert (optimizer.state_dict()["state"][0]["exp_avg"] > 0).all()


def test_8_betas_of_zero_are_legal() -> None:
    p = np.zeros(3)
    optimizer = GpuAdam([p], lr=0.5, betas=(0.0, 0.0), eps=0.0)
    for _ in range(3):
        optimizer.step([np.array([1.0, -2.0, 3.0])])
    assert p.tolist() == [-1.5, 1.5, -1.5]


@pytest.mark.parametrize(
    "betas", [(1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, -0.0001), (math.nan, 0.9), (0.9, math.nan)]
)
def test_8_other_betas_are_refused(betas: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"betas\[[01]\]=.* of the defaults: must be in \[0, 1\)"):
        GpuAdam([np.ones(1)], betas=betas)


def test_8_an_eps_of_zero_makes_zero_over_zero_a_nan() -> None:
    p = np.ones(2, f32)
    GpuAdam([p], eps=0.0).step([np.array([0, 1], f32)])
    assert np.isnan(p[0])
    assert p[1] == f32(1 - 1e-3)
    assert "NaN" in (GpuAdam.__doc__ or "")


def test_9_edits_between_steps_take_effect() -> None:
    p = values(DTYPES["float32"], 20, 1, special=0)
    reference, options = Reference(p), Options()
    optimizer = GpuAdam([p])
    for k, edit in enumerate(({}, {"lr": 0.5}, {"betas": (0.5, 0.5)}, {"weight_decay": 0.25}, {"lr": np.array(0.125)})):
        options = Options(**{**vars(options), **edit})
        optimizer.param_groups[0].update(edit)
        gradient = values(DTYPES["float32"], 20, 10 + k)
        optimizer.step([gradient])
        reference.step(gradient, options)
        assert_same_bits(p, reference.p, f"after {edit}")


def test_9_a_longer_array_as_learning_rate_is_refused() -> None:
    optimizer = GpuAdam([np.ones(1)])
    optimizer.param_groups[0]["lr"] = np.ones(1)
    with pytest.raises(ValueError, match=r"lr of group 0 has shape \(1,\): must be a number or a 0-dimensional array"):
        optimizer.step([np.ones(1)])


@pytest.mark.parametrize("t", [255, 256, 2047, 2048, (1 << 24) - 1, 1 << 24, (1 << 24) + 1])
@pytest.mark.parametrize("name", DTYPES)
def test_10_step_counts_do_not_stall(name: str, t: int) -> None:
    p = np.ones(1, DTYPES[name])
    optimizer = GpuAdam([p])
    zeros = np.zeros(1)
    saved = {
        "state": {0: {"step": t, "exp_avg": zeros, "exp_avg_sq": zeros}},
        "param_groups": optimizer.state_dict()["param_groups"],
    }
    optimizer.load_state_dict(saved)
    for _ in range(3):
        optimizer.step([np.ones_like(p)])
    assert optimizer.state_dict()["state"][0]["step"] == t + 3


def test_11_nan_and_infinity_propagate_by_the_arithmetic() -> None:
    gradients = np.array([math.nan, math.inf, -math.inf, 1.0, 1e30, -1e30], f32)
    p = np.ones(6, f32)
    reference = Reference(p)
    optimizer = GpuAdam([p])
    for gradient in (gradients, np.ones(6, f32), gradients[::-1].copy()):
        optimizer.step([gradient])
        reference.step(gradient, Options())
        assert_same_bits(p, reference.p)
    assert np.isnan(p).tolist() == [True, True, True, True, True, True]


def test_11_a_nan_stays_in_the_maximum_of_amsgrad() -> None:
    p = np.ones(2, f32)
    optimizer = GpuAdam([p], amsgrad=True)
    optimizer.step([np.array([1, math.nan], f32)])
    saved = optimizer.state_dict()
    saved["state"][0]["exp_avg_sq"] = saved["state"][0]["exp_avg"] = np.ones(2, f32)
    optimizer.load_state_dict(saved)
    optimizer.step([np.ones(2, f32)])
    assert np.isnan(optimizer.state_dict()["state"][0]["max_exp_avg_sq"]).tolist() == [False, True]


def test_11_negative_zero_and_subnormals_survive() -> None:
    for name, dtype in DTYPES.items():
        tiny = np.array([1, 2, 3], f"u{dtype.itemsize}").view(dtype)
        p = np.concatenate((-np.zeros(1, dtype), tiny, -tiny))
        before = p.copy()
        GpuAdam([p], lr=0.0).step([np.zeros_like(p)])
        assert_same_bits(p, before, name)
        gradient = np.concatenate((np.zeros(1, dtype), tiny, -tiny))
        optimizer = GpuAdam([p], betas=(0.0, 0.999))
        optimizer.step([gradient])
        kept = optimizer.state_dict()["state"][0]["exp_avg"]
        assert_same_bits(kept, gradient.astype(kept.dtype), name)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("master", [False, True])
def test_11_rounding_past_the_largest_number_gives_infinity_and_ties_go_to_even(name: str, master: bool) -> None:
    dtype = DTYPES[name]
    step = float(np.spacing(np.array(1, dtype)))
    largest = float(ml_dtypes.finfo(dtype).max)
    half = (
        float(np.array(largest, np.float64) - np.nextafter(np.array(largest, dtype), dtype.type(0)).astype(float)) / 2
    )
    for start, move, expected in (
        (largest, half, math.inf),  # the tie beyond the largest number, whose last bit is odd
        (largest, 0.75 * half, largest),
        (1.0, step / 2, 1.0),
        (1.0 + step, step / 2, 1.0 + 2 * step),
        (1.0, step * (0.5 + 2.0**-10), 1.0 + step),
    ):
        p = np.array([start], dtype)
        optimizer = GpuAdam([p], lr=float(move), betas=(0.0, 0.0), eps=0.0, maximize=True, master_weights=master)
        optimizer.step([np.ones(1, f32)])
        assert float(p[0]) == expected, (start, move)
