"""Saving and loading: the next step is the same to the bit, and what does not fit is refused with its reason."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_adam import GpuAdam
from tests.support.reference import DTYPES, Options, assert_same_bits
from tests.support.strategies import FEW, options, values

NAMES = ("float32", "float16", "bfloat16", "float64")


def parameters() -> dict[str, np.ndarray]:
    """One of each format, of odd shapes and strides, and an empty one."""
    shaped = {name: values(DTYPES[name], 24, k, special=0).reshape(2, 3, 4) for k, name in enumerate(NAMES)}
    shaped["float16"] = shaped["float16"].transpose(1, 0, 2)[:, :, ::2]
    shaped["empty"] = np.zeros((0, 3), np.float32)
    shaped["number"] = np.array(0.5)
    return shaped


def gradients(params: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray | None]:
    rng = np.random.default_rng(seed)
    made = {name: rng.standard_normal(p.shape).astype(p.dtype) for name, p in params.items()}
    return {name: None if rng.random() < 0.2 else g for name, g in made.items()}


def stepped(count: int, **options: Any) -> tuple[dict[str, np.ndarray], GpuAdam]:
    params = parameters()
    optimizer = GpuAdam(params, **options)
    for seed in range(count):
        optimizer.step(gradients(params, seed))
    return params, optimizer


def duplicate(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: p.copy(order="K") for name, p in params.items()}


@given(options, st.booleans(), st.booleans(), st.integers(1, 4))
@FEW
def test_the_next_step_after_loading_is_the_same_to_the_bit(
    chosen: Options, pack: bool, packed: bool, count: int
) -> None:
    params, optimizer = stepped(count, pack=pack, **vars(chosen))
    current = {name: np.array(p) for name, p in optimizer.params.items()}
    other = GpuAdam(duplicate(current), pack=packed)
    saved = optimizer.state_dict()
    other.load_state_dict(saved)
    for seed in range(count, count + 3):
        for one in (optimizer, other):
            one.step(gradients(params, seed))
        for name in params:
            assert_same_bits(other.params[name], optimizer.params[name], name)
    assert_same_states(other.state_dict(), optimizer.state_dict())


def assert_same_states(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a["state"].keys() == b["state"].keys()
    for key, state in a["state"].items():
        assert state.keys() == b["state"][key].keys()
        assert state["step"] == b["state"][key]["step"]
        for name in state.keys() - {"step"}:
            value = state[name]
            assert_same_bits(value, b["state"][key][name], f"{name} of {key}")


def test_a_state_dict_is_a_copy_and_in_the_parameters_shapes() -> None:
    params, optimizer = stepped(6)
    saved = optimizer.state_dict()
    frozen = copy.deepcopy(saved)
    optimizer.step({name: np.ones_like(p) for name, p in params.items()})
    assert_same_states(saved, frozen)
    for key, (name, p) in enumerate(params.items()):
        state = saved["state"][key]
        working = np.float64 if p.dtype == np.float64 else np.float32
        assert {field: (v.shape, v.dtype) for field, v in state.items() if field not in ("step", "master")} == {
            "exp_avg": (p.shape, working),
            "exp_avg_sq": (p.shape, working),
        }
        assert type(state["step"]) is int
        assert ("master" in state) == (name in ("float16", "bfloat16"))


def test_loading_does_not_modify_or_keep_what_was_given() -> None:
    params, optimizer = stepped(3)
    saved = optimizer.state_dict()
    frozen = copy.deepcopy(saved)
    other = GpuAdam(duplicate(params))
    other.load_state_dict(saved)
    for seed in range(3):
        other.step(gradients(params, seed))
    other.param_groups[0]["lr"] = 7.0
    assert_same_states(saved, frozen)
    assert saved["param_groups"] == frozen["param_groups"]


def test_loading_twice_is_loading_once() -> None:
    params, optimizer = stepped(3)
    saved = optimizer.state_dict()
    optimizer.step(gradients(params, 9))
    for _ in range(2):
        optimizer.load_state_dict(saved)
        assert_same_states(optimizer.state_dict(), saved)


def test_loading_over_later_steps_forgets_them() -> None:
    params, optimizer = stepped(0, amsgrad=True)
    fresh = optimizer.state_dict()
    start = duplicate(params)
    once = []
    for _ in range(2):
        for name, p in params.items():
            p[...] = start[name]
        optimizer.load_state_dict(fresh)
        for seed in range(3):
            optimizer.step(gradients(params, seed))
        once.append(duplicate(params))
    for name in params:
        assert_same_bits(once[0][name], once[1][name], name)


def test_hyperparameters_are_taken_over() -> None:
    _, optimizer = stepped(1, lr=0.5, betas=(0.5, 0.25), eps=0.125, weight_decay=0.25, decoupled_weight_decay=True)
    other = GpuAdam(parameters())
    other.load_state_dict(optimizer.state_dict())
    assert repr(other) == repr(optimizer)


def test_moments_of_16_bit_parameters_stay_float32() -> None:
    p = np.ones(3, np.float16)
    optimizer = GpuAdam([p])
    optimizer.step([np.full(3, 1e-4)])  # its square is no float16
    other = GpuAdam([p.copy()])
    other.load_state_dict(optimizer.state_dict())
    state = other.state_dict()["state"][0]
    assert state["exp_avg_sq"].dtype == np.float32
    assert (state["exp_avg_sq"] == optimizer.state_dict()["state"][0]["exp_avg_sq"]).all()
    assert (state["exp_avg_sq"] > 0).all()
    assert (state["exp_avg_sq"].astype(np.float16) == 0).all()


def test_a_state_survives_pickle_and_its_groups_json() -> None:
    _, optimizer = stepped(3)
    saved = optimizer.state_dict()
    assert_same_states(pickle.loads(pickle.dumps(saved)), saved)
    groups = json.loads(json.dumps(saved["param_groups"]))
    other = GpuAdam(parameters())
    other.load_state_dict({"state": saved["state"], "param_groups": groups})  # its tuples have become lists
    assert_same_states(other.state_dict(), saved)


@pytest.mark.parametrize("kind", [int, float, np.int64, np.float32, np.array, lambda t: np.array(t, np.float32)])
def test_a_step_count_may_be_any_whole_number(kind: Callable[[int], Any]) -> None:
    _, optimizer = stepped(2)
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        state["step"] = kind(40)
    optimizer.load_state_dict(saved)
    assert {state["step"] for state in optimizer.state_dict()["state"].values()} == {40}


def test_a_state_without_names_is_loaded_by_position() -> None:
    params, optimizer = stepped(2)
    unnamed = GpuAdam(list(duplicate(params).values()))
    unnamed.load_state_dict(optimizer.state_dict())
    assert_same_states(unnamed.state_dict(), optimizer.state_dict())
    optimizer.load_state_dict(unnamed.state_dict())


def broken(edit: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    def make(saved: dict[str, Any]) -> Any:
        replaced = edit(saved)
        return saved if replaced is None else replaced

    return make


def set_state(key: int, name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda saved: saved["state"][key].__setitem__(name, value)


def set_group(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda saved: saved["param_groups"][0].__setitem__(name, value)


STEP = "state_dict's step of parameter 'a' is .*: must be a whole number"
MISFITS: dict[str, tuple[Callable[[dict[str, Any]], Any], type[Exception], str]] = {
    "not a dict": (lambda saved: [saved], TypeError, "state_dict must be a dict with 'state' and 'param_groups'"),
    "no state": (
        lambda saved: saved.pop("state") and None,
        TypeError,
        "must be a dict with 'state' and 'param_groups'",
    ),
    "no groups": (lambda saved: saved.pop("param_groups") and None, TypeError, "must be a dict with 'state'"),
    "groups a number": (lambda saved: {**saved, "param_groups": 3}, TypeError, "a list of dicts as 'param_groups'"),
    "group a number": (lambda saved: {**saved, "param_groups": [3]}, TypeError, "a list of dicts as 'param_groups'"),
    "state a list": (lambda saved: {**saved, "state": []}, TypeError, "a dict as 'state'"),
    "one state a number": (
        lambda saved: saved["state"].__setitem__(0, 3),
        TypeError,
        "state of parameter 'a' is a int",
    ),
    "no params": (
        lambda saved: saved["param_groups"][0].pop("params") and None,
        ValueError,
        "group 0 of state_dict has params=None",
    ),
    "other sizes": (set_group("params", [0]), ValueError, r"has groups of \[1\] parameters, this optimizer of \[2\]"),
    "other groups": (
        lambda saved: saved["param_groups"].append({"params": []}),
        ValueError,
        r"has groups of \[2, 0\] parameters, this optimizer of \[2\]",
    ),
    "same key twice": (set_group("params", [0, 0]), ValueError, r"params \[0, 0\]"),
    "other names": (
        set_group("param_names", ["a", "c"]),
        ValueError,
        r"group 0 of state_dict names \['a', 'c'\], this optimizer \['a', 'b'\]",
    ),
    "the states of other names": (
        set_group("param_names", ["b", "a"]),
        ValueError,
        r"exp_avg of parameter 'a' has shape \(2, 2\): must be \(3,\)",
    ),
    "state of nobody": (lambda saved: saved["state"].__setitem__(7, {}), ValueError, r"states of parameters \[7\]"),
    "no moment": (
        lambda saved: saved["state"][0].pop("exp_avg_sq") is None or None,
        ValueError,
        r"state of parameter 'a' lacks \['exp_avg_sq'\]",
    ),
    "no step": (
        lambda saved: saved["state"][0].pop("step") and None,
        ValueError,
        r"state of parameter 'a' lacks \['step'\]",
    ),
    "no maximum": (set_group("amsgrad", True), ValueError, r"state of parameter 'a' lacks \['max_exp_avg_sq'\]"),
    "wrong shape": (
        set_state(1, "exp_avg", np.ones(4, np.float32)),
        ValueError,
        r"state_dict's exp_avg of parameter 'b' has shape \(4,\): must be \(2, 2\)",
    ),
    "integers": (set_state(1, "exp_avg", np.ones((2, 2), int)), ValueError, "exp_avg of parameter 'b' has dtype int64"),
    "complex": (
        set_state(1, "exp_avg", np.ones((2, 2), complex)),
        ValueError,
        "exp_avg of parameter 'b' has dtype complex128",
    ),
    "a mask": (
        set_state(1, "exp_avg", np.ma.masked_array(np.ones((2, 2)), mask=np.eye(2))),
        ValueError,
        "exp_avg of parameter 'b' is a numpy.ma.MaskedArray",
    ),
    "no array": (set_state(1, "exp_avg", 3.0), ValueError, "exp_avg of parameter 'b' is a builtins.float"),
    "step -1": (set_state(0, "step", -1), ValueError, STEP),
    "step 1.5": (set_state(0, "step", 1.5), ValueError, STEP),
    "step nan": (set_state(0, "step", math.nan), ValueError, STEP),
    "step inf": (set_state(0, "step", math.inf), ValueError, STEP),
    "step 1e30": (set_state(0, "step", 1e30), ValueError, STEP),
    "step 10**400": (set_state(0, "step", 10**400), ValueError, STEP),
    "step a string": (set_state(0, "step", "3"), ValueError, STEP),
    "step None": (set_state(0, "step", None), ValueError, STEP),
    "step a list": (set_state(0, "step", [3]), ValueError, STEP),
    "step an array": (set_state(0, "step", np.ones(2)), ValueError, STEP),
    "bad lr": (set_group("lr", -1.0), ValueError, r"lr=-1\.0 of group 0 of state_dict"),
    "bad betas": (set_group("betas", (0.9, 1.0)), ValueError, r"betas\[1\]=1\.0 of group 0 of state_dict"),
    "bad flag": (set_group("maximize", "yes"), TypeError, "maximize='yes' of group 0 of state_dict"),
}


@pytest.mark.parametrize(("edit", "error", "message"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_refused_and_nothing_has_changed(
    edit: Callable[[dict[str, Any]], Any], error: type[Exception], message: str
) -> None:
    optimizer = GpuAdam({"a": np.ones(3, np.float32), "b": np.ones((2, 2), np.float32)})
    optimizer.step([np.ones(3), np.ones((2, 2))])
    bad = optimizer.state_dict()
    bad["param_groups"][0]["lr"] = 0.5
    bad["state"][0]["exp_avg"] = np.full(3, 9.0)
    bad = broken(edit)(bad)
    before, groups = optimizer.state_dict(), copy.deepcopy(optimizer.state_dict()["param_groups"])
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(bad)
    assert_same_states(optimizer.state_dict(), before)
    assert optimizer.state_dict()["param_groups"] == groups


def test_state_moves_between_libraries_unchanged() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    p, q = np.ones((2, 3), np.float32), torch.ones(2, 3)
    ours, theirs = GpuAdam([p]), GpuAdam([q])
    g = np.random.default_rng(0).standard_normal((2, 3))
    ours.step([g])
    q.copy_(torch.from_numpy(p))
    theirs.load_state_dict(ours.state_dict())
    assert type(theirs.state_dict()["state"][0]["exp_avg"]) is torch.Tensor
    back = GpuAdam([p.copy()])
    back.load_state_dict(theirs.state_dict())
    assert_same_states(back.state_dict(), ours.state_dict())
    for one in (ours, theirs):
        one.step([g])
    assert_same_bits(q.numpy(), p)


def test_a_state_saved_right_after_amsgrad_was_switched_on_loads() -> None:
    p = np.ones(3, np.float32)
    optimizer = GpuAdam([p])
    optimizer.step([np.ones(3, np.float32)])
    optimizer.param_groups[0]["amsgrad"] = True
    other = copy.deepcopy(optimizer)
    for one in (optimizer, other):
        one.step([np.full(3, 0.5, np.float32)])
    assert (other.params[0] == p).all()


def test_the_maximum_is_kept_while_amsgrad_is_off() -> None:
    p, q = np.ones(3, np.float32), np.ones(3, np.float32)
    one, other = GpuAdam([p], betas=(0.9, 0.5), amsgrad=True), GpuAdam([q], betas=(0.9, 0.5), amsgrad=True)
    for optimizer in (one, other):
        optimizer.step([np.full(3, 9.0, np.float32)])
        optimizer.param_groups[0]["amsgrad"] = False
        optimizer.step([np.ones(3, np.float32)])
    other.load_state_dict(one.state_dict())
    for optimizer in (one, other):
        optimizer.param_groups[0]["amsgrad"] = True
        optimizer.step([np.ones(3, np.float32)])
    assert (p == q).all()
