"""What makes no sense to an optimizer is refused with its name and value, before anything has changed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.support.reference import assert_same_bits
from tests.support.rule_cases import SETTINGS, Settings
from tests.support.shipped import OPTIMIZERS

AT_LEAST_0 = r"must be in \[0, ∞\) and finite"
BELOW_1 = r"must be in \[0, 1\)"

NUMBERS: dict[str, dict[str, str]] = {
    # Of each optimizer its own numbers and their range; `lr` and `weight_decay` are everyone's.
    "GpuAdam": {"eps": AT_LEAST_0},
    "GpuAdaMax": {"eps": AT_LEAST_0},
    "GpuSgd": {"momentum": AT_LEAST_0, "dampening": AT_LEAST_0},
    "GpuAdaGrad": {"lr_decay": AT_LEAST_0, "initial_accumulator_value": AT_LEAST_0, "eps": AT_LEAST_0},
    "GpuRmsProp": {"alpha": BELOW_1, "eps": AT_LEAST_0, "momentum": AT_LEAST_0},
    "GpuAdaDelta": {"rho": BELOW_1, "eps": AT_LEAST_0},
    "GpuNAdam": {"eps": AT_LEAST_0, "momentum_decay": AT_LEAST_0},
}
PAIRS = {name: {"betas": BELOW_1} if name in ("GpuAdam", "GpuAdaMax", "GpuNAdam") else {} for name in OPTIMIZERS}
FLAGS = {"GpuAdam": ("amsgrad", "bias_correction", "eps_hat"), "GpuSgd": ("nesterov",), "GpuRmsProp": ("centered",)}
SCHEDULED = {"lr", "weight_decay", "betas", "momentum", "alpha", "rho"}
"""What may be a function of the step."""


def wrong_numbers() -> list[Any]:
    found = []
    for name in OPTIMIZERS:
        for key, limits in {"lr": AT_LEAST_0, "weight_decay": AT_LEAST_0, **NUMBERS[name]}.items():
            wrong: list[tuple[Any, type[Exception], str]] = [
                (-0.5, ValueError, rf"{key}=-0\.5 of WHERE: {limits}"),
                (math.nan, ValueError, f"{key}=nan of WHERE: {limits}"),
                (math.inf, ValueError, f"{key}=inf of WHERE: {limits}"),
                ("0.1", TypeError, rf"{key}='0\.1' of WHERE: must be a number"),
                (None, TypeError, f"{key}=None of WHERE: must be a number"),
                (True, TypeError, f"{key}=True of WHERE: must be a number"),
                (np.ones(2), ValueError, rf"{key} of WHERE has shape \(2,\)"),
            ]
            if limits is BELOW_1:
                wrong.append((1.0, ValueError, rf"{key}=1\.0 of WHERE: {limits}"))
            if key not in SCHEDULED:
                wrong.append((lambda t: 0.1, TypeError, f"{key}=<function.* of WHERE: must be a number"))
            found += [
                # The name of a function has its address in it, which the processes that share the tests must not know them by.
                pytest.param(name, key, *one, id=f"{name} {key} {'function' if callable(one[0]) else one[0]}")
                for one in wrong
            ]
        for key, limits in PAIRS[name].items():
            pairs: list[tuple[Any, type[Exception], str]] = [
                ((1.0, 0.9), ValueError, rf"{key}\[0\]=1\.0 of WHERE: {limits}"),
                ((0.9, -0.1), ValueError, rf"{key}\[1\]=-0\.1 of WHERE: {limits}"),
                (0.9, ValueError, rf"{key}=0\.9 of WHERE: must be two numbers"),
            ]
            found += [pytest.param(name, key, *one, id=f"{name} {key} {one[0]}") for one in pairs]
        for key in (*FLAGS.get(name, ()), "maximize", "decoupled_weight_decay"):
            found.append(
                pytest.param(
                    name, key, "yes", TypeError, f"{key}='yes' of WHERE: must be True or False", id=f"{name} {key}"
                )
            )
    return found


WRONG = wrong_numbers()


@pytest.mark.parametrize(("name", "key", "value", "error", "message"), WRONG)
def test_a_wrong_setting_is_refused_at_the_start(
    name: str, key: str, value: Any, error: type[Exception], message: str
) -> None:
    p, make = np.ones(3), OPTIMIZERS[name]
    with pytest.raises(error, match=message.replace("WHERE", "the defaults")):
        make([p], **{key: value})
    with pytest.raises(error, match=message.replace("WHERE", "group 1")):
        make([{"params": [p]}, {"params": [], key: value}])


@pytest.mark.parametrize(("name", "key", "value", "error", "message"), WRONG)
def test_a_wrong_setting_is_refused_between_steps_and_nothing_has_changed(
    name: str, key: str, value: Any, error: type[Exception], message: str
) -> None:
    p = np.ones(3)
    optimizer = OPTIMIZERS[name]([{"params": []}, {"params": [p]}])
    optimizer.step([[], [np.ones(3)]])
    before, saved, good = p.copy(), optimizer.state_dict(), optimizer.param_groups[1][key]
    optimizer.param_groups[1][key] = value
    with pytest.raises(error, match=message.replace("WHERE", "group 1")):
        optimizer.step([[], [np.ones(3)]])
    optimizer.param_groups[1][key] = good
    bad = optimizer.state_dict()
    bad["param_groups"][0]["lr"] = 7.0
    bad["param_groups"][1][key] = value
    with pytest.raises(error, match=message.replace("WHERE", "group 1 of state_dict")):
        optimizer.load_state_dict(bad)
    assert_same_bits(p, before)
    assert repr(optimizer.state_dict()) == repr(saved)


@pytest.mark.parametrize("value", [-0.5, math.nan, "a", None])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_function_that_returns_what_makes_no_sense_is_refused_and_nothing_has_changed(name: str, value: Any) -> None:
    own = {
        **dict.fromkeys(NUMBERS[name], 0.5),
        **dict.fromkeys(PAIRS[name], (0.5, 0.5)),
        "lr": 0.1,
        "weight_decay": 0.1,
    }
    for key in sorted(SCHEDULED & set(own)):

        def late(t: int) -> Any:
            return 0.5 if t < 2 else value

        p = np.ones(3)
        optimizer = OPTIMIZERS[name]([p], **{key: (late, 0.5) if key == "betas" else late})
        optimizer.step([np.ones(3)])
        before = p.copy()
        shown = f"{key}[0](2)" if key == "betas" else f"{key}(2)"
        with pytest.raises((ValueError, TypeError)) as caught:
            optimizer.step([np.ones(3)])
        assert f"{shown}={value!r} of group 0" in str(caught.value)
        assert_same_bits(p, before)
        optimizer.param_groups[0][key] = (0.5, 0.5) if key == "betas" else 0.5
        assert optimizer.state_dict()["state"][0]["step"] == 1


NESTEROV: dict[str, Settings] = {
    "no momentum": {},
    "momentum 0": {"momentum": 0.0},
    "dampening": {"momentum": 0.9, "dampening": 0.1},
    "a function and dampening": {"momentum": lambda t: 0.9, "dampening": 0.1},
}


@pytest.mark.parametrize("settings", NESTEROV.values(), ids=NESTEROV)
def test_nesterov_needs_momentum_and_no_dampening(settings: Settings) -> None:
    p, make = np.ones(3), OPTIMIZERS["GpuSgd"]
    message = r"nesterov=True with momentum=.* and dampening=.* of {}: needs a momentum above 0, and no dampening"
    with pytest.raises(ValueError, match=message.format("the defaults")):
        make([p], nesterov=True, **settings)
    optimizer = make([p], momentum=0.9, nesterov=True)
    optimizer.step([np.ones(3)])
    before, saved = p.copy(), repr(optimizer.state_dict())
    optimizer.param_groups[0].update({"momentum": 0.0, **settings})
    with pytest.raises(ValueError, match=message.format("group 0")):
        optimizer.step([np.ones(3)])
    optimizer.param_groups[0].update({"momentum": 0.9, "dampening": 0.0})
    assert_same_bits(p, before)
    assert repr(optimizer.state_dict()) == saved
    with pytest.raises(ValueError, match=message.format("group 1")):
        optimizer.add_param_group({"params": [np.ones(2)], "momentum": 0.0, **settings})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_another_optimizers_settings_are_unknown(name: str) -> None:
    own = {key for settings in SETTINGS[name].values() for key in settings} | NUMBERS[name].keys() | PAIRS[name].keys()
    own |= {"lr", "weight_decay", "maximize", "decoupled_weight_decay", *FLAGS.get(name, ())}
    others = {key for one in OPTIMIZERS for key in (*NUMBERS[one], *PAIRS[one], *FLAGS.get(one, ()))} - own
    assert others
    for key in (*sorted(others), "learning_rate"):
        p = np.ones(3)
        with pytest.raises(ValueError, match=rf"group 0 has unknown keys \['{key}'\]: use params, lr"):
            OPTIMIZERS[name]([{"params": [p], key: 0.5}])
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{key}'"):
            OPTIMIZERS[name]([p], **{key: 0.5})
        assert (p == 1).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_group_that_has_lost_a_setting_is_refused_and_nothing_has_changed(name: str) -> None:
    p = np.ones(3)
    optimizer = OPTIMIZERS[name]([p])
    optimizer.step([np.ones(3)])
    before = p.copy()
    for key in [key for key in optimizer.param_groups[0] if key != "params"]:
        value = optimizer.param_groups[0].pop(key)
        with pytest.raises(ValueError, match=f"group 0 has lost its '{key}'"):
            optimizer.step([np.ones(3)])
        optimizer.param_groups[0][key] = value
        assert_same_bits(p, before)
