"""Parameters, gradients and engines that are refused, by a message that names them, before anything has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu_adam import EngineUnavailable, GpuAdam
from gpu_adam.cuda import driver
from gpu_adam.engines import engine_named
from gpu_adam.state import placement
from tests.optim.unchanged import ones, refused

f32 = np.float32


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
