"""Coefficients, loss scales and states that the working format cannot hold are refused by name, before anything has changed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdaDelta, GpuAdaGrad, GpuAdam, GpuAdaMax, GpuNAdam, GpuRmsProp, GpuSgd, LossScaler
from gpu_adam.dtypes import FLOAT32, FLOAT64, FORMATS
from tests.rules.states import states_of
from tests.support.reference import DTYPES
from tests.support.rule_cases import Settings

# ---- Coefficients that the format cannot hold ---------------------------------------------------------------------------------------

BEYOND = [
    (GpuAdam, {"eps": 1e-46}, "eps=1e-46 of group 0: is 0 in float32"),
    (GpuAdam, {"eps": 1e39}, "eps=1e[+]39 of group 0: is infinite in float32"),
    (GpuAdam, {"lr": 1e300}, "lr=1e[+]300 of group 0: is infinite in float32"),
    (GpuAdam, {"lr": np.float64(1e300)}, "lr=1e[+]300 of group 0: is infinite in float32"),
    (GpuAdam, {"lr": np.array(1e39)}, "lr=1e[+]39 of group 0: is infinite in float32"),
    (GpuAdam, {"weight_decay": 1e39}, "weight_decay=1e[+]39 of group 0: is infinite in float32"),
    (GpuNAdam, {"eps": 1e-60}, "eps=1e-60 of group 0: is 0 in float32"),
    (GpuAdaMax, {"eps": 1e-60}, "eps=1e-60 of group 0: is 0 in float32"),
    (GpuRmsProp, {"eps": 5e-324}, "eps=5e-324 of group 0: is 0 in float32"),
    (GpuRmsProp, {"momentum": 1e39}, "momentum=1e[+]39 of group 0: is infinite in float32"),
    (GpuAdaDelta, {"eps": 1e-46}, "eps=1e-46 of group 0: is 0 in float32"),
    (GpuAdaGrad, {"eps": 1e-46}, "eps=1e-46 of group 0: is 0 in float32"),
    (GpuAdaGrad, {"initial_accumulator_value": 1e39}, "initial_accumulator_value=1e[+]39 of group 0: is infinite in float32"),
    (GpuAdaGrad, {"initial_accumulator_value": 1e-60}, "initial_accumulator_value=1e-60 of group 0: is 0 in float32"),
    (GpuSgd, {"momentum": 1e39}, "momentum=1e[+]39 of group 0: is infinite in float32"),
    (GpuSgd, {"momentum": 0.9, "dampening": 1e39}, "dampening=1e[+]39 of group 0: is infinite in float32"),
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(DTYPES))
@pytest.mark.parametrize(("optimizer", "beyond", "message"), BEYOND, ids=lambda value: str(value)[:40])
@pytest.mark.usefixtures("strict")
def test_a_number_that_the_format_cannot_hold_is_refused(
    optimizer: Any, beyond: Settings, message: str, name: str
) -> None:
    p = np.ones(2, DTYPES[name])
    if name == "float64":
        optimizer([p], **beyond)
        return
    with pytest.raises(ValueError, match=message):
        optimizer([p], **beyond)
    usual = {"momentum": 0.9} if beyond.get("dampening") else {}
    one = optimizer([p], **usual)
    one.step([p.copy()])
    before, state = p.copy(), one.state_dict()
    one.param_groups[0].update(beyond)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            one.step([p.copy()])
    with pytest.raises(ValueError, match=message.replace("group 0", "group 1")):
        one.add_param_group({"params": [np.ones(2, DTYPES[name])], **beyond})
    assert np.array_equal(p, before)
    assert len(one.param_groups) == 1
    loaded = {**state, "param_groups": [{**state["param_groups"][0], **beyond}]}
    other = optimizer([p], **usual)
    with pytest.raises(ValueError, match="of state_dict: is"):
        other.load_state_dict(loaded)
    assert other.state_dict()["state"] == {}


def test_the_format_is_that_of_the_group() -> None:
    wide, narrow = np.ones(1), np.ones(1, np.float32)
    optimizer = GpuAdam([{"params": [wide], "eps": 1e-60}, {"params": [narrow]}])
    optimizer.step([np.ones(1), np.ones(1)])
    with pytest.raises(ValueError, match="eps=1e-60 of group 0: is 0 in float32"):
        GpuAdam([wide, narrow], eps=1e-60)
    with pytest.raises(ValueError, match="eps=1e-60 of group 2"):
        optimizer.add_param_group({"params": [np.ones(1, np.float16)], "eps": 1e-60})
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"max_grad_norm": 1.0}], ids=str)
@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"lr": 1e38}, "lr=1e[+]38 and weight_decay=0.0 of group 0: make a coefficient of step 2 infinite in float32"),
        ({"lr": 1e20, "weight_decay": 1e20}, "lr=1e[+]20 and weight_decay=1e[+]20 of group 0"),
        ({"lr": lambda t: 1e300 if t > 1 else 0.1}, r"lr\(2\)=1e[+]300 of group 0: is infinite in float32"),
        ({"weight_decay": lambda t: 1e300}, r"weight_decay\(2\)=1e[+]300 of group 0: is infinite in float32"),
    ],
    ids=["lr", "product", "schedule", "schedule of decay"],
)
@pytest.mark.usefixtures("strict")
def test_what_follows_from_them_is_refused_before_the_step(options: Settings, chosen: Settings, message: str) -> None:
    p = np.ones(3, np.float32)
    optimizer = GpuAdam([p], **options)
    optimizer.step([np.ones(3, np.float32)])
    before, state = p.copy(), states_of(optimizer)
    optimizer.param_groups[0].update(chosen)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            optimizer.step([np.ones(3, np.float32)])
    assert np.array_equal(p, before)
    optimizer.param_groups[0].update(lr=0.1, weight_decay=0.0)
    assert all(np.array_equal(value, state[key]) for key, value in states_of(optimizer).items())
    optimizer.step([np.ones(3, np.float32)])
    assert np.isfinite(p).all()


@pytest.mark.usefixtures("strict")
def test_numbers_that_vanish_without_harm_are_taken() -> None:
    """An end of a schedule may round to 0, which is what it is then."""
    p = np.ones(3, np.float32)
    optimizer = GpuAdam([p], lr=1e-50, weight_decay=1e-60, betas=(1e-60, 1e-60))
    optimizer.step([np.ones(3, np.float32)])
    assert (p == 1.0).all()
    optimizer = GpuAdam([p], eps=0.0)
    optimizer.step([np.ones(3, np.float32)])
    assert np.isfinite(p).all()


@pytest.mark.parametrize("name", sorted(DTYPES))
@pytest.mark.parametrize("scale", [2.0**-130, 2.0**-128, 5e-324, 1e-300, 2.0**151, 1e300])
@pytest.mark.usefixtures("strict")
def test_a_loss_scale_whose_inverse_the_format_cannot_hold_is_refused(scale: float, name: str) -> None:
    p = np.ones(2, DTYPES[name])
    optimizer = GpuAdam([p])
    if name == "float64" and scale != 5e-324:
        optimizer.step([np.zeros(2)], grad_scale=scale)
        return
    word = "0" if scale > 1.0 else "infinite"
    for value in (scale, np.float64(scale), np.array(scale)):
        with pytest.raises(ValueError, match=f"its inverse, which gradients are multiplied by, is {word} in float"):
            optimizer.step([np.zeros(2)], grad_scale=value)
    assert optimizer.state_dict()["state"] == {}
    optimizer.step([np.zeros(2)], grad_scale=2.0**-127)
    optimizer.step([np.zeros(2)], grad_scale=2.0**140)
    assert (p == 1.0).all()


@pytest.mark.parametrize("scale", [2.0**-130, 2.0**-128, 0.0, 1e39, 1e300, -1.0])
@pytest.mark.usefixtures("strict")
def test_a_loss_scaler_starts_where_its_inverse_is_finite(scale: float) -> None:
    optimizer = GpuAdam([np.ones(2, np.float32)])
    with pytest.raises(ValueError, match=r"must be positive and finite in float32, and its inverse too"):
        LossScaler(optimizer, init_scale=scale)
    scaler = LossScaler(optimizer, init_scale=2.0**-127)
    with pytest.raises(ValueError, match=r"must be positive and finite in float32, and its inverse too"):
        scaler.load_state_dict({**scaler.state_dict(), "scale": scale})
    assert scaler.get_scale() == 2.0**-127


@pytest.mark.parametrize("backoff", [0.5, 0.3, 0.9, 1e-30])
def test_a_loss_scaler_backs_off_no_further_than_its_inverse_is_finite(backoff: float) -> None:
    p = np.ones(2, np.float32)
    optimizer = GpuAdam([p])
    scaler = LossScaler(optimizer, backoff_factor=backoff)
    for _ in range(12 if backoff == 1e-30 else 400):
        optimizer.step([np.full(2, np.inf, np.float32)], grad_scale=scaler)
    assert 1.0 / FLOAT32.largest <= scaler.get_scale() < 2.0**-20
    optimizer.step([np.zeros(2, np.float32)], grad_scale=scaler)
    assert (p == 1.0).all()


# ---- States that are loaded ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("state", ["exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("value", [1e39, -1e300, 3.5e38])
@pytest.mark.usefixtures("strict")
def test_a_state_beyond_the_format_is_refused(name: str, state: str, value: float) -> None:
    p = np.ones(2, DTYPES[name])
    optimizer = GpuAdam([p])
    optimizer.step([np.ones(2, np.float32)])
    saved, before = optimizer.state_dict(), p.copy()
    saved["state"][0][state] = np.array([1.0, value])
    with pytest.raises(ValueError, match=f"{state} of parameter 0 of group 0 has .*, which float32 has no place for"):
        optimizer.load_state_dict(saved)
    saved["state"][0][state] = np.array([1.0, math.inf])
    saved["state"][0]["exp_avg"] = np.zeros(2)
    optimizer.load_state_dict(saved)
    optimizer.step([np.ones(2, np.float32)])
    assert p[1] == before[1] or state == "exp_avg"
    assert np.isfinite(p.astype(np.float64)).all()


# ---- Formats ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_the_ends_of_a_format(format: Any) -> None:
    one = np.array(format.largest).astype(format.dtype)
    assert np.isfinite(one)
    assert float(one) == format.largest
    least = np.array(format.least).astype(format.dtype)
    assert float(least) == format.least > 0.0
    assert format.vanishes(format.least / 2.0) == (format is not FLOAT64)
    assert not format.vanishes(0.0)
    for factor in (0.49, 0.51, 1.0):
        assert format.vanishes(-format.least * factor) == (
            np.array(-format.least * factor).astype(format.dtype) == 0 and format.least * factor != 0
        )
