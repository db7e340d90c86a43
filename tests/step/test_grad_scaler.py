"""A step of PyTorch's GradScaler that raises: what it handed over is gone, and the next step is as if nothing had been."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from gpu_adam import GpuAdam, GpuSgd

torch = pytest.importorskip("torch")


class Refusing(GpuSgd):
    """An optimizer whose own step may raise before that of `GpuSgd` is reached."""

    refuses = False

    def step(self, *args: Any, **kwargs: Any) -> None:
        if self.refuses:
            raise RuntimeError("refused")
        super().step(*args, **kwargs)


def made(cls: type = GpuSgd, dtype: Any = None, **options: Any) -> tuple[Any, Any, Any]:
    p = torch.nn.Parameter(torch.ones(3, dtype=dtype or torch.float32))
    return p, cls([p], lr=0.25, **options), torch.amp.GradScaler("cpu", init_scale=16.0)


def backward(p: Any, scaler: Any) -> None:
    p.grad = None
    scaler.scale(p.sum()).backward()


def bad_lr(opt: Any) -> Callable[[], None]:
    opt.param_groups[0]["lr"] = -1.0
    return lambda: opt.param_groups[0].__setitem__("lr", 0.25)


def bad_gradient(opt: Any) -> Callable[[], None]:
    [p] = opt.params
    data, p.data = p.data, p.data.repeat(2)
    return lambda: setattr(p, "data", data)


def no_such_argument(opt: Any) -> Callable[[], None]:
    opt.step = lambda: type(opt).step(opt, unknown=3)  # as wrappers do, with what GradScaler.step hands on
    return lambda: delattr(opt, "step")


def own_step(opt: Any) -> Callable[[], None]:
    opt.refuses = True
    return lambda: setattr(opt, "refuses", False)


def interrupted(opt: Any) -> Callable[[], None]:
    def step() -> None:
        raise KeyboardInterrupt

    opt.step = step
    return lambda: delattr(opt, "step")


FAILURES = [bad_lr, bad_gradient, no_such_argument, own_step, interrupted]


@pytest.mark.parametrize("options", [{}, {"pack": True}, {"max_grad_norm": 100.0}, {"dtype": torch.bfloat16}])
@pytest.mark.parametrize("unscaled", [False, True])
@pytest.mark.parametrize("failure", FAILURES)
def test_the_next_plain_step_is_not_scaled(failure: Any, unscaled: bool, options: dict[str, Any]) -> None:
    p, opt, scaler = made(Refusing, **options)
    backward(p, scaler)
    if unscaled:
        scaler.unscale_(opt)
    repair = failure(opt)
    with pytest.raises((RuntimeError, TypeError, ValueError, KeyboardInterrupt)) as caught:
        scaler.step(opt)
    assert caught.traceback  # it is held, and the scaler's frame with it
    repair()
    assert not hasattr(opt, "grad_scale")
    assert not hasattr(opt, "found_inf")
    p.grad = torch.ones_like(p)
    opt.step()
    assert p.tolist() == [0.75] * 3


@pytest.mark.parametrize("failure", FAILURES)
def test_the_next_step_of_a_scaler_has_the_scale_once(failure: Any) -> None:
    p, opt, scaler = made(Refusing)
    backward(p, scaler)
    repair = failure(opt)
    with pytest.raises((RuntimeError, TypeError, ValueError, KeyboardInterrupt)):
        scaler.step(opt)
    repair()
    another = torch.amp.GradScaler("cpu", init_scale=8.0)
    backward(p, another)
    another.step(opt)
    another.update()
    assert p.tolist() == [0.75] * 3


def test_an_overflow_that_was_found_is_forgotten_too() -> None:
    p, opt, scaler = made()
    backward(p, scaler)
    p.grad[0] = float("inf")
    repair = bad_lr(opt)
    with pytest.raises(ValueError, match="lr"):
        scaler.step(opt)
    repair()
    p.grad = torch.ones(3)
    opt.step()
    assert p.tolist() == [0.75] * 3
    assert opt.steps_skipped == 0


def test_what_the_user_sets_is_the_users() -> None:
    # As PyTorch has it: a scaler's step multiplies by it, and a plain step uses it, until somebody deletes it.
    p, opt, scaler = made()

    def set_scale() -> None:
        opt.grad_scale = torch.tensor(2.0)

    set_scale()
    p.grad = torch.full((3,), 2.0)
    opt.step()
    assert p.tolist() == [0.75] * 3
    assert float(opt.grad_scale) == 2.0
    backward(p, scaler)
    p.grad *= 2
    scaler.step(opt)
    scaler.update()
    assert p.tolist() == [0.5] * 3
    assert not hasattr(opt, "grad_scale")
    with pytest.raises(AttributeError, match="grad_scale"):
        del opt.grad_scale


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))])
def test_copies_have_nothing_handed_over(copied: Any) -> None:
    p, opt, scaler = made()
    backward(p, scaler)
    repair = bad_lr(opt)
    with pytest.raises(ValueError, match="lr"):
        scaler.step(opt)
    repair()
    other = copied(opt)
    assert not hasattr(other, "grad_scale")
    other.step([torch.ones(3)])
    assert other.params[0].tolist() == [0.75] * 3


def test_the_attributes_are_absent_before_and_after() -> None:
    p, opt, scaler = made(GpuAdam)
    assert not hasattr(opt, "grad_scale")
    assert not hasattr(opt, "found_inf")
    for _ in range(3):
        backward(p, scaler)
        scaler.step(opt)
        scaler.update()
        assert not hasattr(opt, "grad_scale")
        assert not hasattr(opt, "found_inf")
