"""A schedule with side effects: in a step it is called once for each step number that its parameters have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, GpuNAdam, GpuSgd, LossScaler

FORMATS = ["float32", "float64", "float16"]


class Recorder:
    """A schedule that tells what it was asked, and cannot be hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: float = 0.1) -> None:
        self.value = value
        self.asked: list[int] = []

    def __call__(self, t: int) -> float:
        self.asked.append(t)
        return self.value / t

    def taken(self) -> list[int]:
        taken, self.asked = self.asked, []
        return taken


def arrays(count: int = 1) -> list[Any]:
    return [np.ones(3, name) for _ in range(count) for name in FORMATS]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"pack": True},
    {"max_grad_norm": 1.0},
    {"skip_nonfinite": True},
    {"capturable": True},
    {"ema_decay": 0.9, "max_grad_norm": 1.0, "pack": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cls", [GpuAdam, GpuNAdam, GpuSgd])
def test_once_a_step_whatever_the_formats(cls: Any, options: dict[str, Any]) -> None:
    lr = Recorder()
    opt = cls(arrays(2), lr=lr, **options)
    for t in range(1, 6):
        opt.step(arrays(2))
        assert lr.taken() == [t]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_once_a_step_for_all_groups_and_hyperparameters_that_have_it(options: dict[str, Any]) -> None:
    shared, own = Recorder(), Recorder(0.5)
    groups = [{"params": arrays()}, {"params": arrays(), "lr": own}, {"params": arrays()}]
    opt = GpuAdam(groups, lr=shared, betas=(shared, 0.9), weight_decay=shared, **options)
    for t in range(1, 5):
        opt.step([arrays(), arrays(), arrays()])
        assert (shared.taken(), own.taken()) == ([t], [t])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_once_for_each_step_number(options: dict[str, Any]) -> None:
    lr = Recorder()
    opt = GpuAdam(arrays(2), lr=lr, **options)
    steps = np.zeros(6, int)
    for has in ([1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1], [1] * 6, [1] * 6):
        opt.step([g if here else None for g, here in zip(arrays(2), has, strict=True)])
        steps += has
        assert Counter(lr.taken()) == Counter({int(t) for t, here in zip(steps, has, strict=True) if here})


@pytest.mark.parametrize("cls", [GpuAdam, GpuNAdam])
def test_nobody_else_asks_but_for_what_is_saved(cls: Any) -> None:
    lr, beta = Recorder(), Recorder(0.5)
    opt = cls(arrays(2), lr=lr, betas=(beta, 0.9))
    opt.step(arrays(2))
    assert (lr.taken(), beta.taken()) == ([1], [1])
    str(opt.plan)
    repr(opt)
    assert (lr.taken(), beta.taken()) == ([], [])
    opt.state_dict()  # of NAdam it has the product of the momenta
    assert Counter(lr.taken() + beta.taken()).most_common(1)[0:] in ([], [(1, 2)])


def test_a_change_between_steps_is_seen() -> None:
    lr = Recorder()
    w = np.ones(2, np.float32)
    opt = GpuSgd([w], lr=lr)
    opt.step([np.ones(2, np.float32)])
    lr.value = 0.0
    opt.step([np.ones(2, np.float32)])
    assert w.tolist() == [np.float32(1) - np.float32(0.1)] * 2


def bad(t: int) -> float:
    return -1.0 if t == 2 else 0.5


@pytest.mark.parametrize("make", [lambda: bad, lambda: lambda t: bad(t)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_it_returns_is_checked_for_each_hyperparameter(make: Callable[[], Any], options: dict[str, Any]) -> None:
    opt = GpuAdam(arrays(), lr=make(), **options)
    opt.step(arrays())
    before = [p.copy() for p in opt.params]
    with pytest.raises(ValueError, match=r"lr\(2\)=-1.0 of group 0"):
        opt.step(arrays())
    assert all((p == q).all() for p, q in zip(opt.params, before, strict=True))
    # The same value may be right for one hyperparameter and wrong for another.
    two = GpuAdam(arrays(), lr=lambda t: 0.5, **options)
    two.param_groups[0]["lr"] = two.param_groups[0]["betas"] = None
    large: Any = lambda t: 2.0  # noqa: E731
    two.param_groups[0].update(lr=large, betas=(large, 0.9))
    with pytest.raises(ValueError, match=r"betas\[0\]\(1\)=2.0 of group 0"):
        two.step(arrays())


def test_with_a_loss_scaler_a_skipped_step_does_not_ask_again() -> None:
    lr = Recorder()
    opt = GpuAdam(arrays(), lr=lr)
    scaler = LossScaler(opt, 4.0)
    opt.step(arrays(), grad_scale=scaler)
    assert lr.taken() == [1]
    opt.step([np.full(3, np.inf, name) for name in FORMATS], grad_scale=scaler)
    opt.step(arrays(), grad_scale=scaler)
    assert lr.taken() == [2]
