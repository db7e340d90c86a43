"""Nothing around a step reaches it: modes of autograd, defaults for new tensors, the processor's mode, NumPy's errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.support.torch_classes import (  # noqa: E402
    ours,
    parameters,
    same_bits,
    set_gradients,
    state_bits,
    train,
    trained,
)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def flushing() -> Iterator[None]:
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "default device": default_device,
    "default dtype": default_dtype,
    "flushing": flushing,
    "NumPy's errors": lambda: np.errstate(all="raise"),
    "a device as context": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1e-30, "ema_decay": 0.5}, {"pack": True}], ids=str)
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_nothing_around_a_step_reaches_it(
    around: Callable[[], AbstractContextManager[Any]], options: dict[str, Any]
) -> None:
    settings = {"lr": 1e-3, "eps": 1e-38, **options}
    params, twins = ([*own, *parameters(((3,),), torch.bfloat16)] for own in (parameters(), parameters()))
    opt, twin = ours("NAdam", params, **settings), ours("NAdam", twins, **settings)
    for seed in range(3):
        set_gradients(params, seed)
        set_gradients(twins, seed)
        for own in (params, twins):
            own[0].grad.mul_(1e-30)
        twin.step()
        with around():
            opt.step()
        assert same_bits(params, twins)
    with around():
        saved = opt.state_dict()
        opt.load_state_dict(saved)
        assert {type(value) for value in opt.state[params[0]].values()} == {torch.Tensor}
    assert {key: value.dtype for key, value in opt.state[params[0]].items()} == {
        key: value.dtype for key, value in twin.state[twins[0]].items()
    }
    with around():
        opt.step()
    twin.step()
    assert same_bits(params, twins)
    assert state_bits(opt) == state_bits(twin)
    opt.state[params[0]]["exp_avg"].mul_(2)  # no tensor of inference mode


def test_a_schedule_is_asked_once_a_step() -> None:
    asked: list[int] = []

    def rate(t: int) -> float:
        asked.append(t)
        return 0.1 / t

    params, opt = trained(lr=rate)
    assert asked == [1, 2, 3]
    opt.state_dict()
    torch.nn.ParameterList(params).double()
    train(params, opt, [3])
    assert asked == [1, 2, 3, 4]
