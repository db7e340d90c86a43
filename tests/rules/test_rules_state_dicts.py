"""The states of every optimizer, saved and loaded: the next step is the same to the bit, and what does not fit is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.rules.rule_references import Reference
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.rule_cases import SETTINGS, STATES, Settings, each, gradients, parameters
from tests.support.shipped import OPTIMIZERS

SIZES = (17, 1, 0, 40)
NAMES = ("float32", "float64", "float32", "bfloat16")


def in_formats(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [array.astype(DTYPES[name]) for array, name in zip(arrays, NAMES, strict=True)]


def assert_same_states(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a["state"].keys() == b["state"].keys()
    for key, state in a["state"].items():
        assert state.keys() == b["state"][key].keys()
        for name, value in state.items():
            if name in ("step", "mu_product"):
                assert value == b["state"][key][name]
            else:
                assert_same_bits(value, b["state"][key][name], f"{name} of {key}")


# ---- To the bit ---------------------------------------------------------------------------------------------------------------------


def loaded(optimizer: Any) -> Any:
    params = [np.array(p) for p in optimizer.params]
    other = type(optimizer)(params, pack=not optimizer._pack)
    other.load_state_dict(optimizer.state_dict())
    return other


DUPLICATES: dict[str, Callable[[Any], Any]] = {
    "loaded": loaded,
    "deepcopy": copy.deepcopy,
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
}


@pytest.mark.parametrize("duplicate", DUPLICATES.values(), ids=DUPLICATES)
@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@each
def test_the_next_steps_of_a_copy_are_the_same_to_the_bit(
    name: str, settings: Settings, pack: bool, duplicate: Callable[[Any], Any]
) -> None:
    optimizer = OPTIMIZERS[name](in_formats(parameters(SIZES)), pack=pack, **settings)
    steps = [in_formats(grads) for grads in gradients(SIZES, 5)]
    for k, grads in enumerate(steps[:3]):
        optimizer.step([None, *grads[1:]] if k < 2 else grads)
    twin = duplicate(optimizer)
    assert_same_states(twin.state_dict(), optimizer.state_dict())
    assert [group["lr"] for group in twin.param_groups] == [group["lr"] for group in optimizer.param_groups]
    for grads in steps[3:]:
        for one in (optimizer, twin):
            one.step(grads)
    for p, q in zip(optimizer.params, twin.params, strict=True):
        assert_same_bits(q, p)
    assert_same_states(twin.state_dict(), optimizer.state_dict())


@each
def test_loading_over_later_steps_forgets_them(name: str, settings: Settings) -> None:
    (p,) = params = parameters((30,))
    optimizer, start = OPTIMIZERS[name](params, **settings), p.copy()
    fresh, runs = optimizer.state_dict(), []
    for _ in range(2):
        p[...] = start
        optimizer.load_state_dict(fresh)
        for grads in gradients((30,), 3):
            optimizer.step(grads)
        runs.append(p.copy())
    assert_same_bits(runs[1], runs[0])


# ---- What does not fit --------------------------------------------------------------------------------------------------------------

FITS = {
    # NAdam's groups and states have all that Adam's have; it is loaded as Adam's.
    ("GpuNAdam", "GpuAdam"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_of_another_optimizer_is_refused_and_nothing_has_changed(name: str) -> None:
    optimizer = OPTIMIZERS[name](parameters((5,)), lr=0.5)
    optimizer.step([np.ones(5)])
    before, groups = optimizer.state_dict(), repr(optimizer)
    for other in OPTIMIZERS:
        if other == name or (other, name) in FITS:
            continue
        foreign = OPTIMIZERS[other](parameters((5,)), lr=0.25)
        foreign.step([np.ones(5)])
        with pytest.raises(ValueError, match="lacks"):
            optimizer.load_state_dict(foreign.state_dict())
        assert repr(optimizer) == groups
        assert_same_states(optimizer.state_dict(), before)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("wrong", ["lacking", "shape", "integers"])
def test_a_state_with_a_wrong_array_is_refused_and_nothing_has_changed(name: str, wrong: str) -> None:
    settings = list(SETTINGS[name].values())[-1]
    optimizer = OPTIMIZERS[name]({"a": parameters((5,))[0]}, **settings)
    optimizer.step([np.ones(5)])
    before = optimizer.state_dict()
    for state in sorted(before["state"][0].keys() & STATES[name]):
        bad = optimizer.state_dict()
        bad["param_groups"][0]["lr"] = 7.0
        if wrong == "lacking":
            del bad["state"][0][state]
        else:
            bad["state"][0][state] = np.ones(4) if wrong == "shape" else np.ones(5, int)
        with pytest.raises(ValueError, match=f"{state}.*" if wrong == "lacking" else f"{state} of parameter 'a' has"):
            optimizer.load_state_dict(bad)
        assert optimizer.param_groups[0]["lr"] != 7.0
        assert_same_states(optimizer.state_dict(), before)


# ---- A rule that is changed ---------------------------------------------------------------------------------------------------------

SWITCHES: dict[str, tuple[str, Settings, list[Settings]]] = {
    # The optimizer, what it begins with, and what is edited after each step.
    "momentum off and on": ("GpuSgd", {"momentum": 0.9}, [{"momentum": 0.0}, {}, {"momentum": 0.5}, {}]),
    "momentum late": ("GpuSgd", {}, [{}, {"momentum": 0.9, "dampening": 0.5}, {}]),
    "nesterov": ("GpuSgd", {"momentum": 0.9}, [{"nesterov": True}, {}, {"nesterov": False}]),
    "centered off and on": (
        "GpuRmsProp", {"centered": True, "alpha": 0.5}, [{"centered": False}, {}, {"centered": True}, {}]
    ),
    "centered while there is momentum": (
        "GpuRmsProp", {"momentum": 0.9, "alpha": 0.5}, [{"centered": True}, {}, {"centered": False}, {}]
    ),
    "momentum while centered": (
        "GpuRmsProp", {"momentum": 0.9, "centered": True, "alpha": 0.5}, [{"momentum": 0.0}, {}, {"momentum": 0.5}, {}]
    ),
    "amsgrad off and on": ("GpuAdam", {"amsgrad": True, "betas": (0.5, 0.5)}, [{"amsgrad": False}, {}, {"amsgrad": True}]),
}  # fmt: skip


@pytest.mark.parametrize("how", ["going on", "loaded after each step", "copied after each step"])
@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize(("name", "start", "edits"), SWITCHES.values(), ids=SWITCHES)
def test_what_a_switched_off_rule_kept_is_there_when_it_is_switched_on(
    name: str, start: Settings, edits: list[Settings], pack: bool, how: str
) -> None:
    (p,) = parameters((50,), np.float32)
    reference, settings = Reference(name, p), dict(start)
    optimizer: Any = OPTIMIZERS[name]([p], pack=pack, **start)
    for (g,), edit in zip(gradients((50,), len(edits), np.float32), edits, strict=True):
        optimizer.step([g])
        reference.step(g, settings)
        assert_same_bits(optimizer.params[0], reference.p)
        # Before and after the edit: also what is saved in between has all.
        for change in ({}, edit):
            optimizer.param_groups[0].update(change)
            settings.update(change)
            if how == "loaded after each step":
                optimizer = loaded(optimizer)
            if how == "copied after each step":
                optimizer = copy.deepcopy(optimizer)


@pytest.mark.parametrize("name", ["GpuSgd", "GpuRmsProp"])
def test_groups_of_different_rules_save_what_is_their_own(name: str) -> None:
    params = parameters((9, 9))
    groups = [{"params": params[:1], "momentum": 0.0}, {"params": params[1:], "momentum": 0.9}]
    optimizer = OPTIMIZERS[name](groups)
    for g, h in gradients((9, 9), 2):
        optimizer.step([[g], [h]])
    states = optimizer.state_dict()["state"]
    assert "momentum_buffer" not in states[0]
    assert states[1]["momentum_buffer"].any()
