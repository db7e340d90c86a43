"""What goes in and what comes out: structures, groups, hyperparameters; and that a refusal names its reason and changes nothing."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gpu_adam import EngineUnavailable, GpuAdam
from gpu_adam.cuda import driver
from gpu_adam.engines import engine_named
from gpu_adam.state import placement
from tests.support.reference import assert_same_bits

f32 = np.float32


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, f32)


def everything(optimizer: GpuAdam) -> list[Any]:
    """All that a refused call must leave alone."""
    saved = optimizer.state_dict()
    params = [p.tobytes() for group in optimizer.param_groups for p in group["params"]]
    states = [
        (key, {k: v if k == "step" else v.tobytes() for k, v in state.items()}) for key, state in saved["state"].items()
    ]
    return [params, states, repr(saved["param_groups"]), [len(group["params"]) for group in optimizer.param_groups]]


def refused(optimizer: GpuAdam, act: Callable[[], Any], error: type[Exception], message: str) -> None:
    """Check that ``act`` raises ``error``, whose message matches, and has changed nothing, also for the next step."""
    before, twin = everything(optimizer), copy.deepcopy(optimizer)
    with pytest.raises(error, match=message) as caught:
        act()
    assert type(caught.value) is error
    assert everything(optimizer) == before
    good = [ones(*p.shape) for group in optimizer.param_groups for p in group["params"]]
    optimizer.step(copy.copy(good))
    twin.step(good)
    assert everything(optimizer) == everything(twin)


# Structures.


def test_a_list_a_tuple_and_an_iterator_are_lists() -> None:
    for make in (list, tuple, iter):
        a, b = ones(2), ones(3)
        optimizer = GpuAdam(make((a, b)))
        assert isinstance(optimizer.params, list)
        assert optimizer.params[0] is a
        optimizer.step(make((ones(2), ones(3))))
        assert a[0] < 1
        assert b[0] < 1


def test_a_dict_goes_by_name_in_any_order() -> None:
    a, b = ones(2), ones(3)
    optimizer = GpuAdam({"a": a, "b": b})
    optimizer.step({"b": ones(3), "a": -ones(2)})
    assert optimizer.params["a"] is a
    assert a[0] > 1 > b[0]
    optimizer.step([None, ones(3)])  # a plain list is in the dict's order
    assert [state["step"] for state in optimizer.state_dict()["state"].values()] == [1, 2]


def test_named_pairs_go_by_name_too() -> None:
    a, b = ones(2), ones(2)
    optimizer = GpuAdam([("a", a), ("b", b)])
    assert [(name, array is original) for (name, array), original in zip(optimizer.params, (a, b), strict=True)] == [
        ("a", True),
        ("b", True),
    ]
    optimizer.step([("b", ones(2)), ("a", -ones(2))])
    assert a[0] > 1 > b[0]
    optimizer.step({"b": ones(2), "a": -ones(2)})
    assert a[0] > 1 > b[0]


def test_groups_have_their_own_hyperparameters() -> None:
    a, b = ones(2), ones(2)
    optimizer = GpuAdam([{"params": [a], "lr": 0.5}, {"params": {"b": b}}], lr=0.25, eps=0.0)
    optimizer.step([[ones(2)], {"b": ones(2)}])
    assert (a[0], b[0]) == (0.5, 0.75)
    assert optimizer.params[1]["b"] is b
    optimizer.step([None, ones(2)])
    assert (a[0], b[0]) == (0.5, 0.5)


@pytest.mark.parametrize(
    "grads",
    [
        {"a": ones(2), "b": -ones(2)},
        [("b", -ones(2)), ("a", ones(2))],
        [ones(2), -ones(2)],
        [{"a": ones(2)}, [-ones(2)]],
    ],
    ids=["dict", "pairs", "list", "list of structures"],
)
def test_gradients_of_named_groups_may_come_in_any_of_the_structures(grads: Any) -> None:
    a, b = ones(2), ones(2)
    GpuAdam([{"params": {"a": a}}, {"params": [("b", b)]}]).step(grads)
    assert a[0] < 1 < b[0]


def test_groups_that_share_names_need_their_gradients_apart() -> None:
    a, b = ones(2), ones(2)
    optimizer = GpuAdam([{"params": {"w": a}}, {"params": {"w": b}}])
    refused(optimizer, lambda: optimizer.step({"w": ones(2)}), ValueError, "groups share names")
    a[...] = b[...] = 1
    optimizer.step([{"w": ones(2)}, {"w": -ones(2)}])
    assert a[0] < b[0]


def test_nothing_at_all_is_refused() -> None:
    for params in ([], {}, (), iter([]), [{"params": iter([])}], [{"params": (p for p in ())}]):
        with pytest.raises(ValueError, match=r"params is empty|with nothing left in it"):
            GpuAdam(params)


def test_groups_of_nothing_are_fine() -> None:
    for params in ([{"params": []}], [{"params": []}, {"params": {}}]):
        optimizer = GpuAdam(params)
        optimizer.step()
        optimizer.zero_grad()
        assert optimizer.state_dict()["state"] == {}
        assert optimizer.plan.launches == ()
        assert "GpuAdam" in repr(optimizer)


def test_foreign_names_of_an_array_see_the_update() -> None:
    a = ones(2, 3)
    view = a.T
    GpuAdam([view]).step([ones(3, 2)])
    assert (a < 1).all()


# Binding gradients.


def test_bound_gradients_are_read_again_every_step() -> None:
    p, g = ones(3), ones(3)
    optimizer = GpuAdam([p])
    optimizer.grads = [g]
    optimizer.step()
    first = p.copy()
    g *= -100
    optimizer.step()
    assert (p > first).all()
    optimizer.zero_grad()
    assert not g.any()
    optimizer.step([-g])  # others in between
    optimizer.step()
    assert optimizer.grads[0] is g
    assert optimizer.state_dict()["state"][0]["step"] == 4


def test_binding_a_wrong_gradient_is_refused() -> None:
    optimizer = GpuAdam({"p": ones(3)})

    def bind() -> None:
        optimizer.grads = {"p": ones(4)}

    refused(optimizer, bind, ValueError, r"the gradient of parameter 'p' has shape \(4,\): must be \(3,\)")


def test_a_step_that_no_gradient_can_come_to_is_refused() -> None:
    p = ones(3)
    optimizer = GpuAdam([p])
    assert optimizer.grads == [None]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"there are no gradients: call step\(grads\), or assign opt.grads"):
            optimizer.step()
    optimizer.step([None])
    assert (p == 1).all()


def test_the_state_of_another_kind_of_optimizer_is_refused() -> None:
    torch = pytest.importorskip("torch")
    optimizer = GpuAdam([ones(3)])
    with pytest.raises(
        ValueError, match=r"group 0 of state_dict lacks .*betas.*: it is that of another kind of optimizer"
    ):
        optimizer.load_state_dict(torch.optim.SGD([torch.zeros(3)], lr=0.5).state_dict())
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_packing_hands_out_views_that_are_what_is_updated() -> None:
    a, b = ones(2, 3), np.ones(5, np.float16)
    optimizer = GpuAdam({"a": a, "b": b}, pack=True, lr=0.25, eps=0.0)
    assert {name: (p.shape, p.dtype) for name, p in optimizer.params.items()} == {
        "a": ((2, 3), a.dtype),
        "b": ((5,), b.dtype),
    }
    optimizer.grads["a"][...] = 1
    optimizer.grads["b"][...] = -1
    optimizer.step()
    assert (optimizer.params["a"] == 0.75).all()
    assert (optimizer.params["b"] == 1.25).all()
    assert (a == 1).all()
    optimizer.zero_grad()
    assert not optimizer.grads["a"].any()
    optimizer.step({"a": None, "b": np.ones(5)})  # others than the bound ones
    assert [s["step"] for s in optimizer.state_dict()["state"].values()] == [1, 2]


def test_packed_gradients_cannot_be_replaced() -> None:
    optimizer = GpuAdam([ones(3)], pack=True)
    with pytest.raises(ValueError, match="pack=True binds its own gradients"):
        optimizer.grads = [ones(3)]


# Hyperparameters.


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


# Parameters that are refused.


def read_only() -> np.ndarray:
    array = ones(3)
    array.flags.writeable = False
    return array


def misaligned() -> np.ndarray:
    return np.zeros(13, np.uint8)[1:].view(f32)


def broadcast() -> np.ndarray:
    return np.lib.stride_tricks.as_strided(ones(1), (3,), (0,), writeable=True)


def odd_strides() -> np.ndarray:
    return np.zeros(3, np.dtype([("a", f32), ("b", np.uint8)]))["a"]


NOT_PARAMETERS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: np.ones(3, int),
        TypeError,
        "parameter 'w' has dtype int64, which is not supported: use one of float64, float32",
    ),
    (lambda: np.ones(3, complex), TypeError, "parameter 'w' has dtype complex128, which is not supported"),
    (lambda: np.ones(3, bool), TypeError, "parameter 'w' has dtype bool, which is not supported"),
    (lambda: np.ones(3, np.longdouble), TypeError, "parameter 'w' has dtype .*, which is not supported"),
    (
        lambda: np.ones(3, ">f4"),
        TypeError,
        "parameter 'w' has dtype float32 in the other byte order, which is not supported",
    ),
    (lambda: np.array([None]), TypeError, "parameter 'w' has dtype object, which is not supported"),
    (lambda: 3.0, TypeError, "parameter 'w' is a builtins.float: use a NumPy, CuPy"),
    (lambda: None, TypeError, "parameter 'w' is a builtins.NoneType: use a NumPy"),
    (lambda: f32(3), TypeError, "parameter 'w' is a numpy.float32: use a NumPy"),
    (lambda: [1.0, 2.0], TypeError, "parameter 'w' is a builtins.list: use a NumPy"),
    (lambda: np.ndarray, TypeError, "parameter 'w' is a builtins.type: use a NumPy"),
    (read_only, ValueError, "parameter 'w' is read-only"),
    (misaligned, ValueError, "parameter 'w' starts at address 0x.*, which is no multiple"),
    (broadcast, ValueError, r"parameter 'w' has shape \(3,\) and strides \(0,\), so that elements share memory"),
    (odd_strides, ValueError, r"parameter 'w' has strides of \(5,\) bytes, which are no multiples"),
]


@pytest.mark.parametrize(("make", "error", "message"), NOT_PARAMETERS, ids=[case[2][14:44] for case in NOT_PARAMETERS])
def test_what_is_no_parameter_is_refused(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GpuAdam({"w": make()})
    optimizer = GpuAdam([ones(2)])
    refused(optimizer, lambda: optimizer.add_param_group({"params": {"w": make()}}), error, message)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (ones(3), TypeError, "params of group 0 is a numpy.ndarray: give a list of arrays"),
        (None, TypeError, "params of group 0 is a NoneType"),
        (3, TypeError, "params of group 0 is an int"),
        ("w", TypeError, "params of group 0 is a str"),
        (
            frozenset((1, 2)),
            TypeError,
            "params of group 0 is a frozenset|params of group 0 is a set, which has no order",
        ),
        ({1: ones(1)}.keys(), TypeError, "params of group 0 is a set, which has no order"),
        ([("w", ones(1)), ("w", ones(1))], ValueError, r"params of group 0 names \['w'\] more than once"),
        ([{"lr": 0.1}], ValueError, "group 0 has no 'params'"),
        ([{"params": [], "Lr": 0.1}], ValueError, r"group 0 has unknown keys \['Lr'\]: use params, lr, betas"),
        ([{"params": ones(2)}], TypeError, "params of group 0 is a numpy.ndarray"),
    ],
    ids=["array", "None", "int", "str", "set", "keys", "names", "no params", "unknown key", "array in group"],
)
def test_what_is_no_structure_is_refused(params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GpuAdam(params)


def test_an_engine_is_asked_for_once_whatever_the_number_of_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(placement, "engine_named", lambda name: asked.append(name) or engine_named(name))
    GpuAdam([ones(k) for k in range(100)])
    assert asked == ["cpu"]


def test_host_arrays_touch_nothing_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the driver has begun, a process that is forked from this one cannot use it."""
    monkeypatch.setattr(driver, "find", lambda: pytest.fail("the driver was asked"))
    p = ones(3)
    GpuAdam([p]).step([ones(3)])
    assert (p < 1).all()


def test_unknown_engines_and_engines_that_cannot_work_there_are_refused() -> None:
    with pytest.raises(ValueError, match="engine='gpu': use 'auto', 'cpu', 'cupy'"):
        GpuAdam([ones(1)], engine="gpu")
    for engine in ("cupy", "numba"):
        # Without a GPU the engine cannot run; with one it cannot work on a host array.
        with pytest.raises((EngineUnavailable, ValueError), match=r"lives on cpu|engine='cpu'|driver|install"):
            GpuAdam([ones(1)], engine=engine)


# Gradients that are refused.


NOT_GRADIENTS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: {"a": ones(2)}, ValueError, r"grads lacks \['b'\] and has unknown \[\]: use None"),
    (lambda: {"a": ones(2), "b": ones(3), "c": None}, ValueError, r"grads lacks \[\] and has unknown \['c'\]"),
    (lambda: [ones(2)], ValueError, "grads has 1 entries for 2 parameters"),
    (lambda: ones(2, 2), TypeError, "grads is a numpy.ndarray: give a list of arrays"),
    (lambda: 3, TypeError, "grads is an int: give a list or a dict of arrays"),
    (lambda: {1, 2}, TypeError, "grads is a set, which has no order"),
    (lambda: [ones(2), ones(4)], ValueError, r"the gradient of parameter 'b' has shape \(4,\): must be \(3,\)"),
    (lambda: [ones(2), ones(1, 3)], ValueError, r"the gradient of parameter 'b' has shape \(1, 3\): must be \(3,\)"),
    (lambda: [ones(2), ones()], ValueError, r"the gradient of parameter 'b' has shape \(\): must be \(3,\)"),
    (
        lambda: [ones(2), np.ones(3, int)],
        TypeError,
        "the gradient of parameter 'b' has dtype int64, which is not supported",
    ),
    (lambda: [ones(2), np.ones(3, complex)], TypeError, "the gradient of parameter 'b' has dtype complex128"),
    (lambda: [ones(2), 1.0], TypeError, "the gradient of parameter 'b' is a builtins.float"),
    (lambda: [ones(2), misaligned()], ValueError, "the gradient of parameter 'b' starts at address"),
    (lambda: [ones(2), odd_strides()], ValueError, "the gradient of parameter 'b' has strides of"),
]


@pytest.mark.parametrize(("make", "error", "message"), NOT_GRADIENTS, ids=[case[2][:50] for case in NOT_GRADIENTS])
@pytest.mark.parametrize("stepped", [False, True], ids=["first step", "later step"])
def test_gradients_that_do_not_fit_are_refused(
    make: Callable[[], Any], error: type[Exception], message: str, stepped: bool
) -> None:
    optimizer = GpuAdam({"a": ones(2), "b": ones(3)})
    if stepped:
        optimizer.step([ones(2), ones(3)])
    refused(optimizer, lambda: optimizer.step(make()), error, message)
    grouped = GpuAdam([{"params": {"a": ones(2)}}, {"params": {"b": ones(3)}}])
    refused(grouped, lambda: grouped.step(make()), error, message)


def test_a_list_of_parameters_takes_no_dict_of_gradients() -> None:
    optimizer = GpuAdam([ones(2)])
    refused(
        optimizer,
        lambda: optimizer.step({0: ones(2)}),
        TypeError,
        "grads is a dict, but the parameters were given as a list",
    )


def test_a_gradient_in_a_parameters_memory_is_refused_unless_it_is_that_parameter() -> None:
    memory = ones(10)
    optimizer = GpuAdam({"a": memory[:3], "b": memory[5:8]})
    for grads, message in (
        ([memory[1:4], None], "the gradient of parameter 'a' overlaps the memory of parameter 'a'"),
        ([memory[:3][::-1], None], "the gradient of parameter 'a' overlaps the memory of parameter 'a'"),
        ([memory[5:8], None], "the gradient of parameter 'a' overlaps the memory of parameter 'b'"),
        ([memory[:6:2], None], "the gradient of parameter 'a' overlaps the memory of parameter 'a'"),
    ):
        refused(optimizer, lambda grads=grads: optimizer.step(grads), ValueError, message)
    optimizer.step([memory[:3], None])
    optimizer.step([None, memory[5:8]])


# Groups.


def test_a_group_may_be_added_after_some_steps() -> None:
    a, b = ones(2), ones(2)
    optimizer = GpuAdam([a], lr=0.1)
    optimizer.step([ones(2)])
    optimizer.add_param_group({"params": [b], "lr": 0.5, "name": "late"})
    optimizer.step([ones(2), ones(2)])
    assert [state["step"] for state in optimizer.state_dict()["state"].values()] == [2, 1]
    assert b[0] == pytest.approx(0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    assert optimizer.param_groups[1]["params"][0] is b
    assert optimizer.state_dict()["param_groups"][1]["name"] == "late"


def test_an_optimizer_of_nothing_may_be_given_a_group() -> None:
    p = ones(2)
    optimizer = GpuAdam([{"params": []}], lr=0.25, eps=0.0)
    optimizer.add_param_group({"params": [p]})
    optimizer.step([[], [ones(2)]])
    assert p[0] == 0.75


def test_the_callers_own_groups_are_not_changed() -> None:
    groups = [{"params": [ones(2)], "lr": 0.5}]
    optimizer = GpuAdam(groups)
    optimizer.param_groups[0]["lr"] = 0.1
    assert set(groups[0]) == {"params", "lr"}
    assert groups[0]["lr"] == 0.5


def test_generators_are_read_once() -> None:
    def arrays() -> Iterator[np.ndarray]:
        yield ones(2)
        yield ones(3)

    optimizer = GpuAdam([{"params": arrays()}])
    optimizer.step(arrays())
    assert len(optimizer.param_groups[0]["params"]) == 2


# Looking at it.


def test_repr_tells_engine_packing_and_hyperparameters() -> None:
    text = repr(GpuAdam([{"params": [ones(2)], "lr": 0.5}, {"params": []}], betas=(0.5, 0.9)))
    assert text.startswith("GpuAdam(engine=cpu, pack=False)\n  group 0: 1 parameters, lr=0.5, betas=(0.5, 0.9)")
    assert "group 1: 0 parameters, lr=0.001" in text


def test_the_plan_prints_buckets_and_launches() -> None:
    text = str(GpuAdam([ones(300), np.ones(5, np.float16)]).plan)
    assert text.splitlines()[0] == "step: 2 launches, 305 elements, 8,540 bytes (28.0 a parameter)"
    assert "bucket cpu float16 with float32 master weights: 1 segments, 5 elements" in text
    assert "adam_multi_tensor_float32_float32 on cpu: 1 tensors, 300 elements" in text


def test_looking_at_the_plan_changes_nothing() -> None:
    optimizer = GpuAdam([ones(3)])
    before = everything(optimizer)
    assert str(optimizer.plan) == str(optimizer.plan)
    assert everything(optimizer) == before


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_copies_go_their_own_way_on_the_same_bits(duplicate: Callable[[Any], Any], pack: bool) -> None:
    rng = np.random.default_rng(0)
    params = {"a": ones(4), "b": np.ones((2, 3), np.float16).T, "c": ones(0)}
    optimizer = GpuAdam(params, pack=pack, amsgrad=True, lr=0.01)
    gradients = [{k: rng.standard_normal(p.shape) for k, p in params.items()} for _ in range(4)]
    optimizer.step(gradients[0])
    twin = duplicate(optimizer)
    assert repr(twin) == repr(optimizer)
    for gradient in gradients[1:]:
        optimizer.step(gradient)
    assert (np.array(twin.params["a"]) != np.array(optimizer.params["a"])).all()
    for gradient in gradients[1:]:
        twin.step(gradient)
    assert everything(twin) == everything(optimizer)


def test_a_copy_keeps_bound_gradients_and_added_groups() -> None:
    p, q, g = ones(3), ones(2), ones(3)
    optimizer = GpuAdam([p])
    optimizer.add_param_group({"params": {"q": q}, "lr": 0.5})
    optimizer.grads = [[g], {"q": None}]
    other, (twin_g,) = copy.deepcopy((optimizer, (g,)))
    twin_g[...] = -1
    other.step()
    assert other.params[0][0][0] > 1
    assert (p == 1).all()
    assert other.param_groups[1]["lr"] == 0.5
