"""Hyperparameters: the kinds of numbers that they may be, their edits between steps, and the refusal of numbers that make no sense."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.optim.unchanged import ones, refused
from tests.support.reference import assert_same_bits

f32 = np.float32


@pytest.mark.parametrize("make", [float, np.float32, np.float64, np.array, lambda x: np.array(x, np.float16)])
def test_the_learning_rate_may_be_any_kind_of_number(make: Any) -> None:
    p = ones(1)
    GpuAdam([p], lr=make(0.5), eps=0.0).step([ones(1)])
    assert p[0] == 0.5


def test_arrays_as_hyperparameters_are_read_at_every_step() -> None:
    lr, eps, decay, betas = np.array(0.5), np.array(0.0), np.array(0.0), np.array([0.9, 0.999])
    p, q = ones(4), ones(4)
    edited = GpuAdam([p], lr=lr, eps=eps, weight_decay=decay, betas=betas)
    fresh = GpuAdam([q])
    rng = np.random.default_rng(0)
    for k in range(6):
        if k == 1:
            lr[()] = 0.25
        elif k == 2:
            eps[()] = 0.1
        elif k == 3:
            decay[()] = 0.5
        elif k == 4:
            betas[0] = 0.5
        g = rng.standard_normal(4).astype(f32)
        values = {"lr": float(lr), "eps": float(eps), "weight_decay": float(decay), "betas": tuple(betas.tolist())}
        fresh.param_groups[0].update(values)
        edited.step([g])
        fresh.step([g])
        assert_same_bits(p, q, f"step {k}")


@pytest.mark.parametrize(
    "edit",
    [
        {"lr": 0.5},
        {"betas": (0.0, 0.5)},
        {"betas": [0.0, 0.5]},
        {"eps": 0.1},
        {"weight_decay": 0.5},
        {"weight_decay": 0.5, "decoupled_weight_decay": True},
        {"amsgrad": True},
        {"maximize": True},
        {"bias_correction": False},
        {"eps_hat": True},
        {"lr": lambda t: 1.0 / t},
    ],
    ids=lambda edit: "-".join(edit),
)
def test_groups_are_edited_between_steps(edit: dict[str, Any]) -> None:
    p, q = ones(4), ones(4)
    edited, loaded = GpuAdam([p], eps=1e-2), GpuAdam([q], **{"eps": 1e-2, **edit})
    rng = np.random.default_rng(0)
    edited.step([rng.standard_normal(4)])
    state = copy.deepcopy(edited.state_dict())
    state["param_groups"][0].update(edit)
    if edit.get("amsgrad"):
        state["state"][0]["max_exp_avg_sq"] = np.zeros(4, f32)
    q[...] = p
    loaded.load_state_dict(state)
    edited.param_groups[0].update(edit)
    for _ in range(2):
        g = rng.standard_normal(4)
        edited.step([g])
        loaded.step([g])
        assert_same_bits(p, q)


def test_the_learning_rate_may_be_a_function_of_the_parameters_own_step() -> None:
    a, b = ones(1), ones(1)
    seen: list[int] = []

    def lr(t: int) -> float:
        seen.append(t)
        return 1.0 / math.sqrt(t)

    optimizer = GpuAdam([a, b], lr=lr)
    for g in (None, ones(1), ones(1)):
        optimizer.step([ones(1), g])
    assert set(seen) == {1, 2, 3}
    assert all(type(t) is int for t in seen)


BAD_NUMBERS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lr": -1e-3}, ValueError, r"lr=-0\.001 of {where}: must be in \[0, ∞\)"),
    ({"lr": math.nan}, ValueError, r"lr=nan of {where}: must be in \[0, ∞\)"),
    ({"lr": math.inf}, ValueError, r"lr=inf of {where}: must be in \[0, ∞\)"),
    ({"lr": 10**400}, ValueError, r"lr=.* of {where}: must be in \[0, ∞\)"),
    ({"lr": np.ones(2)}, ValueError, r"lr of {where} has shape \(2,\): must be a number or a 0-dimensional array"),
    ({"lr": np.ones(1)}, ValueError, r"lr of {where} has shape \(1,\): must be a number or a 0-dimensional array"),
    ({"lr": "0.1"}, TypeError, r"lr='0\.1' of {where}: must be a number"),
    ({"lr": None}, TypeError, r"lr=None of {where}: must be a number"),
    ({"lr": True}, TypeError, r"lr=True of {where}: must be a number"),
    ({"lr": 1j}, TypeError, r"lr=1j of {where}: must be a number"),
    ({"lr": np.array(1j)}, TypeError, r"lr=array\(.*j\) of {where}: must be a real number"),
    ({"lr": np.array(True)}, TypeError, r"lr=array\(True\) of {where}: must be a real number"),
    ({"betas": (1.0, 0.999)}, ValueError, r"betas\[0\]=1\.0 of {where}: must be in \[0, 1\)"),
    ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\]=1\.0 of {where}: must be in \[0, 1\)"),
    ({"betas": (-0.1, 0.9)}, ValueError, r"betas\[0\]=-0\.1 of {where}: must be in \[0, 1\)"),
    ({"betas": (0.9, math.nan)}, ValueError, r"betas\[1\]=nan of {where}: must be in \[0, 1\)"),
    ({"betas": (0.9,)}, ValueError, r"betas=\(0\.9,\) of {where}: must be two numbers in \[0, 1\)"),
    ({"betas": 0.9}, ValueError, r"betas=0\.9 of {where}: must be two numbers in \[0, 1\)"),
    ({"betas": None}, ValueError, r"betas=None of {where}: must be two numbers in \[0, 1\)"),
    ({"betas": {0.9, 0.8}}, ValueError, r"betas=.* of {where}: must be two numbers in \[0, 1\)"),
    ({"betas": np.ones((2, 2))}, ValueError, r"betas=.*"),
    ({"betas": ("a", 0.9)}, TypeError, r"betas\[0\]='a' of {where}: must be a number"),
    ({"eps": -1e-8}, ValueError, r"eps=-1e-08 of {where}: must be in \[0, ∞\)"),
    ({"eps": math.nan}, ValueError, r"eps=nan of {where}: must be in \[0, ∞\)"),
    ({"weight_decay": -0.1}, ValueError, r"weight_decay=-0\.1 of {where}: must be in \[0, ∞\)"),
    ({"weight_decay": math.inf}, ValueError, r"weight_decay=inf of {where}: must be in \[0, ∞\)"),
    ({"amsgrad": 1}, TypeError, r"amsgrad=1 of {where}: must be True or False"),
    ({"maximize": None}, TypeError, r"maximize=None of {where}: must be True or False"),
]

CASES = [pytest.param(*case, id=repr(case[0])[:40]) for case in BAD_NUMBERS]


@pytest.mark.parametrize(("bad", "error", "message"), CASES)
def test_senseless_numbers_are_refused_at_the_start(bad: dict[str, Any], error: type[Exception], message: str) -> None:
    p = ones(2)
    with pytest.raises(error, match=message.format(where="the defaults")):
        GpuAdam([p], **bad)
    with pytest.raises(error, match=message.format(where="group 1")):
        GpuAdam([{"params": [p]}, {"params": [], **bad}])
    assert (p == 1).all()


@pytest.mark.parametrize(("bad", "error", "message"), CASES)
def test_senseless_numbers_are_refused_between_steps(bad: dict[str, Any], error: type[Exception], message: str) -> None:
    p = ones(2)
    optimizer = GpuAdam([{"params": []}, {"params": [p]}])
    optimizer.step([ones(2)])
    good = dict(optimizer.param_groups[1])
    before, state = p.copy(), optimizer.state_dict()
    optimizer.param_groups[1].update(bad)
    with pytest.raises(error, match=message.format(where="group 1")):
        optimizer.step([ones(2)])
    optimizer.param_groups[1].update(good)
    assert_same_bits(p, before)
    assert repr(optimizer.state_dict()) == repr(state)
    refused(
        optimizer,
        lambda: optimizer.add_param_group({"params": [ones(1)], **bad}),
        error,
        message.format(where="group 2"),
    )


@pytest.mark.parametrize("value", [math.nan, -1.0, "a", None, np.ones(2)])
def test_a_function_that_returns_no_learning_rate_is_refused(value: Any) -> None:
    a, b = ones(2), ones(2)
    optimizer = GpuAdam([{"params": [a]}, {"params": [b], "lr": lambda t: 0.1 if t < 3 else value}])
    for _ in range(2):
        optimizer.step([ones(2), ones(2)])
    before = a.copy()
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match=r"lr\(3\).* of group 1"):
            optimizer.step([ones(2), ones(2)])
    assert_same_bits(a, before)
    assert [state["step"] for state in optimizer.state_dict()["state"].values()] == [2, 2]


def test_a_group_that_has_lost_a_key_is_refused() -> None:
    optimizer = GpuAdam([ones(2)])
    del optimizer.param_groups[0]["eps"]
    with pytest.raises(ValueError, match="group 0 has lost its 'eps'"):
        optimizer.step([ones(2)])
