"""Gradients that come scaled: by numbers, by numbers on a device, by a LossScaler, by PyTorch's GradScaler; and steps that are skipped."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, LossScaler
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.strategies import values

INFINITE = (math.inf, -math.inf, math.nan)


def params_of(seed: int = 0, names: tuple[str, ...] = ("float32", "float16", "float64")) -> list[np.ndarray]:
    return [values(DTYPES[name], 300, seed + k, 0.0).reshape(3, 100) for k, name in enumerate(names)]


def gradients_of(params: list[np.ndarray], seed: int) -> list[np.ndarray]:
    return [values(p.dtype, p.size, 100 * seed + k, 0.0).reshape(p.shape) for k, p in enumerate(params)]


def everything(optimizer: GpuAdam) -> dict[str, Any]:
    """Every byte that a step could change but the count of skipped steps."""
    state = optimizer.state_dict()
    del state["steps_skipped"]
    return {"params": copy.deepcopy(optimizer.params), **state}


def assert_unchanged(after: dict[str, Any], before: dict[str, Any]) -> None:
    for k, (p, q) in enumerate(zip(after["params"], before["params"], strict=True)):
        assert_same_bits(p, q, f"parameter {k}")
    assert after["state"].keys() == before["state"].keys()
    for k, state in after["state"].items():
        assert state.keys() == before["state"][k].keys()
        for name, value in state.items():
            if name == "step":
                assert value == before["state"][k][name]
            else:
                assert_same_bits(value, before["state"][k][name], f"{name} of parameter {k}")


# Numbers.


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("clip", [None, math.inf])
def test_a_power_of_two_as_scale_is_as_if_the_gradients_had_not_been_scaled(clip: float | None, pack: bool) -> None:
    plain, scaled = params_of(), params_of()
    one, other = GpuAdam(plain, pack=pack), GpuAdam(scaled, pack=pack, max_grad_norm=clip)
    for seed in range(1, 4):
        grads = [g.clip(-1, 1) for g in gradients_of(plain, seed)]
        one.step(grads)
        other.step([(g * 2.0**7).astype(g.dtype) for g in grads], grad_scale=2.0**7)
    for p, q in zip(one.params, other.params, strict=True):
        assert_same_bits(q, p)


def test_any_scale_is_a_product_with_its_rounded_inverse() -> None:
    p, q = params_of(names=("float32",)), params_of(names=("float32",))
    (g,) = gradients_of(p, 1)
    GpuAdam(p).step([g], grad_scale=3.0)
    GpuAdam(q).step([g * np.float32(1 / 3)])
    assert_same_bits(p[0], q[0])


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_makes_no_sense_is_refused(scale: float) -> None:
    optimizer = GpuAdam(params_of())
    before = everything(optimizer)
    with pytest.raises(ValueError, match=r"grad_scale=.*: must be positive and finite"):
        optimizer.step(gradients_of(optimizer.params, 1), grad_scale=scale)
    assert_unchanged(everything(optimizer), before)


@pytest.mark.parametrize("scale", ["2", [2.0], 1j, True])
def test_a_scale_that_is_no_number_is_refused(scale: Any) -> None:
    optimizer = GpuAdam(params_of())
    with pytest.raises(TypeError, match=r"grad_scale=.*: must be a number, a 0-dimensional array or a LossScaler"):
        optimizer.step(gradients_of(optimizer.params, 1), grad_scale=scale)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_a_scale_in_an_array_is_read_at_the_step(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    p, q = torch.ones(5), torch.ones(5)
    one, other = GpuAdam([p]), GpuAdam([q])
    scale = torch.tensor(4.0, dtype=getattr(torch, dtype))
    for factor in (4.0, 16.0):
        scale.fill_(factor)
        one.step([torch.full((5,), factor * 0.3)], grad_scale=scale)
        other.step([torch.full((5,), factor * 0.3)], grad_scale=factor)
        assert torch.equal(p, q)


@pytest.mark.parametrize("family", ["numpy", "torch"])
def test_an_array_of_several_scales_is_refused(family: str) -> None:
    ones = np.ones if family == "numpy" else pytest.importorskip("torch").ones
    with pytest.raises(ValueError, match=r"grad_scale has shape \(2,\): must be a number or a 0-dimensional array"):
        GpuAdam([ones(5)]).step([ones(5)], grad_scale=ones(2))


# Skipping.


@pytest.mark.parametrize("value", INFINITE)
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("average", [{}, {"ema_decay": 0.9}, {"polyak_average": True}])
def test_a_skipped_step_leaves_every_byte(value: float, pack: bool, average: dict[str, Any]) -> None:
    optimizer = GpuAdam(params_of(), amsgrad=True, weight_decay=0.1, skip_nonfinite=True, pack=pack, **average)
    optimizer.step(gradients_of(optimizer.params, 1))
    before = everything(optimizer)
    for k in range(3):
        grads = gradients_of(optimizer.params, 2)
        grads[k].reshape(-1)[77] = value
        optimizer.step(grads)
        assert not math.isfinite(optimizer.grad_norm)
        assert optimizer.steps_skipped == k + 1
    assert_unchanged(everything(optimizer), before)
    optimizer.step(gradients_of(optimizer.params, 2))
    assert optimizer.steps_skipped == 3
    assert [int(state["step"]) for state in optimizer.state_dict()["state"].values()] == [2, 2, 2]


def test_steps_that_are_skipped_are_as_if_they_had_not_been() -> None:
    skipping, plain = params_of(), params_of()
    one = GpuAdam(skipping, lr=lambda t: 0.1 / t, skip_nonfinite=True)
    other = GpuAdam(plain, lr=lambda t: 0.1 / t)
    for seed in range(1, 9):
        grads = gradients_of(plain, seed)
        if seed % 3 == 1:
            one.step([np.full_like(g, np.inf) for g in grads])
        one.step(grads)
        other.step(grads)
    for p, q in zip(skipping, plain, strict=True):
        assert_same_bits(p, q)
    assert one.steps_skipped == 3


def test_without_skipping_a_nan_goes_where_the_arithmetic_takes_it() -> None:
    p = np.ones(4, np.float32)
    optimizer = GpuAdam([p], max_grad_norm=1.0)
    optimizer.step([np.array([1.0, np.nan, 1.0, 1.0], np.float32)])
    assert np.isnan(p).all(), "the clip factor is NaN too"


def test_a_gradient_that_comes_late_has_its_own_count_of_steps() -> None:
    p, q = np.ones(3, np.float32), np.ones(3, np.float32)
    optimizer = GpuAdam([p, q], skip_nonfinite=True)
    g = np.ones(3, np.float32)
    optimizer.step([g, None])
    optimizer.step([g * np.inf, None])
    optimizer.step([g, g])
    optimizer.step([g, g * np.nan])
    optimizer.step([None, g])
    steps = [state["step"] for state in optimizer.state_dict()["state"].values()]
    assert steps == [2, 2]
    assert optimizer.steps_skipped == 2


def test_the_count_of_skipped_steps_is_saved() -> None:
    optimizer = GpuAdam([np.ones(3, np.float32)], skip_nonfinite=True)
    for factor in (1.0, np.inf, np.nan):
        optimizer.step([np.full(3, factor, np.float32)])
    for other in (copy.deepcopy(optimizer), GpuAdam([np.ones(3, np.float32)], skip_nonfinite=True)):
        other.load_state_dict(optimizer.state_dict())
        assert other.steps_skipped == 2
        other.step([np.full(3, np.inf, np.float32)])
        assert other.steps_skipped == 3


# The loss scaler.


def test_a_scaler_backs_off_and_grows_as_pytorchs_does() -> None:
    torch = pytest.importorskip("torch")
    p = torch.ones(4)
    settings = {"init_scale": 2.0**12, "growth_factor": 1.7, "backoff_factor": 0.3, "growth_interval": 3}
    theirs = torch.amp.GradScaler("cpu", **settings)
    ours_p = np.ones(4, np.float32)
    optimizer = GpuAdam([ours_p])
    scaler = LossScaler(optimizer, **settings)
    sgd = torch.optim.SGD([p.requires_grad_()], lr=0.0)
    theirs.scale(torch.tensor(1.0))
    for k in range(40):
        value = math.inf if k in (2, 3, 11, 25) else 1.0
        p.grad = torch.full((4,), value)
        theirs.step(sgd)
        theirs.update()
        optimizer.step([np.full(4, value, np.float32)], grad_scale=scaler)
        state, expected = scaler.state_dict(), theirs.state_dict()
        assert state["scale"] == expected["scale"]
        assert state["_growth_tracker"] == expected["_growth_tracker"]
    assert optimizer.steps_skipped == 4


def test_a_scale_never_grows_to_infinity() -> None:
    optimizer = GpuAdam([np.ones(2, np.float32)])
    scaler = LossScaler(optimizer, init_scale=3e38, growth_interval=1)
    optimizer.step([np.ones(2, np.float32)], grad_scale=scaler)
    assert scaler.get_scale() == float(np.float32(3e38))


def test_a_scale_never_backs_off_to_nothing() -> None:
    optimizer = GpuAdam([np.ones(2, np.float32)])
    scaler = LossScaler(optimizer, init_scale=2.0**-120, growth_interval=1)
    for _ in range(9):
        optimizer.step([np.full(2, np.inf, np.float32)], grad_scale=scaler)
    assert scaler.get_scale() == 2.0**-127  # the inverse of the next one is infinite in float32
    scaler.load_state_dict(scaler.state_dict())
    optimizer.step([np.ones(2, np.float32) * np.float32(2.0**-127)], grad_scale=scaler)
    assert scaler.get_scale() == 2.0**-126


@pytest.mark.parametrize("wrong", [None, [np.ones(2)]])
def test_a_scaler_is_for_an_optimizer(wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be an optimizer of gpu_adam"):
        LossScaler(wrong)


@pytest.mark.parametrize("family", ["numpy", "torch"])
def test_a_scaled_loss_is_unscaled_by_the_step(family: str) -> None:
    if family == "torch":
        torch = pytest.importorskip("torch")
        p, q = torch.ones(6), torch.ones(6)
        g = torch.linspace(0.1, 1, 6)
    else:
        p, q, g = np.ones(6, np.float32), np.ones(6, np.float32), np.linspace(0.1, 1, 6, dtype=np.float32)
    one, other = GpuAdam([p]), GpuAdam([q])
    scaler = LossScaler(one, init_scale=2.0**10)
    assert type(scaler.current) is type(p)
    for _ in range(3):
        one.step([scaler.scale(g)], grad_scale=scaler)
        other.step([g])
    assert_same_bits(np.asarray(p), np.asarray(q))


def test_a_scalers_state_is_saved_and_is_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    optimizer = GpuAdam([np.ones(2, np.float32)])
    scaler = LossScaler(optimizer, init_scale=8.0, growth_interval=5)
    for _ in range(3):
        optimizer.step([np.ones(2, np.float32)], grad_scale=scaler)
    saved = scaler.state_dict()
    assert saved == {
        "scale": 8.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 5, "_growth_tracker": 3,
    }  # fmt: skip
    theirs = torch.amp.GradScaler("cpu")
    theirs.load_state_dict(saved)
    theirs.scale(torch.tensor(1.0))
    other = LossScaler(optimizer)
    other.load_state_dict(theirs.state_dict())
    assert other.state_dict() == saved
    assert other.current == 8.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"init_scale": 0.0}, "scale=0.0: must be positive"),
        ({"init_scale": 1e39}, "scale=1e[+]39: must be positive and finite in float32"),
        ({"growth_factor": 1.0}, "growth_factor=1.0: must be above 1"),
        ({"growth_factor": math.nan}, "growth_factor=nan: must be finite"),
        ({"backoff_factor": 1.0}, r"backoff_factor=1.0: must be in \(0, 1\)"),
        ({"growth_interval": 0}, "growth_interval=0: must be at least 1"),
        ({"growth_interval": 2.5}, "growth_interval=2.5: must be a whole number"),
    ],
)
def test_a_scaler_with_settings_that_make_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        LossScaler(GpuAdam([np.ones(2, np.float32)]), **wrong)


def test_a_scalers_state_with_missing_keys_is_refused_and_changes_nothing() -> None:
    scaler = LossScaler(GpuAdam([np.ones(2, np.float32)]), init_scale=4.0)
    with pytest.raises(ValueError, match=r"lacks \['growth_interval', '_growth_tracker'\]"):
        scaler.load_state_dict({"scale": 2.0, "growth_factor": 2.0, "backoff_factor": 0.5})
    assert scaler.get_scale() == 4.0


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_scaler_is_not_copied(duplicate: Any) -> None:
    with pytest.raises(TypeError, match="make another, and load this one's state_dict"):
        duplicate(LossScaler(GpuAdam([np.ones(2, np.float32)])))


# PyTorch's.


def train_with_grad_scaler(optimizer: Any, p: Any, *, unscale: bool, clip: float | None = None) -> list[float]:
    import torch

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
    scales = []
    for k in range(8):
        p.grad = None
        loss = (p * torch.arange(1.0, 5.0)).sum() * (math.inf if k == 3 else 1.0)
        scaler.scale(loss).backward()
        if unscale:
            scaler.unscale_(optimizer)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_([p], clip)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


@pytest.mark.parametrize("unscale", [False, True])
def test_the_grad_scaler_hands_its_tensors_over(unscale: bool) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = (torch.ones(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = GpuAdam([ours], lr=0.1)
    got = train_with_grad_scaler(optimizer, ours, unscale=unscale)
    expected = train_with_grad_scaler(torch.optim.Adam([theirs], lr=0.1, fused=True), theirs, unscale=unscale)
    assert got == expected
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert optimizer.steps_skipped == 1
    assert int(optimizer.state_dict()["state"][0]["step"]) == 7
    assert not hasattr(optimizer, "grad_scale")


def test_clipping_after_unscaling_is_clipping_in_the_step() -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = (torch.ones(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    train_with_grad_scaler(GpuAdam([ours], lr=0.1, max_grad_norm=0.5), ours, unscale=False)
    train_with_grad_scaler(torch.optim.Adam([theirs], lr=0.1), theirs, unscale=True, clip=0.5)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)


def test_a_scaler_is_for_its_own_optimizer_only() -> None:
    one, other = GpuAdam([np.ones(2, np.float32)]), GpuAdam([np.ones(2, np.float32)])
    with pytest.raises(ValueError, match="LossScaler of another optimizer"):
        other.step([np.ones(2, np.float32)], grad_scale=LossScaler(one))


@pytest.mark.parametrize("scale", [10**400, -2.0, 0.0])
def test_a_scale_that_the_host_can_read_is_looked_at(scale: float) -> None:
    torch = pytest.importorskip("torch")
    optimizer = GpuAdam([torch.ones(2)])
    value = scale if scale == 10**400 else torch.tensor(scale)
    with pytest.raises(ValueError, match="must be positive and finite"):
        optimizer.step([torch.ones(2)], grad_scale=value)
