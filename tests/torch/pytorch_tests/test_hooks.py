"""Hooks of every kind are called, in PyTorch's order, with what PyTorch gives them, and are gone when they were removed."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook  # noqa: E402

from tests.torch.pytorch_tests.cases import NAMES, Task, assert_same, inputs, optimizer  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.parametrize("name", NAMES)]


def test_steps_call_the_hooks_in_order(name: str) -> None:
    for kwargs in inputs(name):
        task = Task(name)
        opt, other = optimizer(name, task.params, **kwargs), torch.optim.SGD(task.params)
        calls: list[str] = []

        def noting(word: str, calls: list[str] = calls) -> Any:
            return lambda opt, args, kwargs: calls.append(word)

        handles = [
            register_optimizer_step_pre_hook(noting("every optimizer, before")),
            register_optimizer_step_post_hook(noting("every optimizer, after")),
            *(each.register_step_pre_hook(noting("before")) for each in (opt, other)),
            *(each.register_step_post_hook(noting("after")) for each in (opt, other)),
        ]
        try:
            once = ["every optimizer, before", "before", "after", "every optimizer, after"]
            for k, each in enumerate((opt, other, opt), start=1):
                for p in task.params:
                    p.grad = None
                each.step()
                assert calls == k * once
        finally:
            for handle in handles:
                handle.remove()
        opt.step()
        other.step()
        assert calls == 3 * once


def test_a_hook_sees_parameters_before_and_after_and_may_change_the_arguments(name: str) -> None:
    task = Task(name)
    opt = optimizer(name, task.params, lr=0.05)
    seen: list[Any] = []

    def before(opt: Any, args: Any, kwargs: Any) -> Any:
        seen.append((args, dict(kwargs), task.params[0].detach().clone()))
        opt.param_groups[0]["lr"] = 0.1
        return args, {**kwargs, "closure": task.loss}

    def after(opt: Any, args: Any, kwargs: Any) -> None:
        seen.append((args, dict(kwargs), task.params[0].detach().clone()))

    opt.register_step_pre_hook(before)
    opt.register_step_post_hook(after)
    held = task.params[0].detach().clone()
    loss = opt.step()
    assert_same(loss, Task(name).loss())
    (args, given, value), (args_after, given_after, value_after) = seen
    assert args == args_after == (opt,)
    assert (given, given_after) == ({}, {"closure": task.loss})
    assert torch.equal(value, held)
    assert torch.equal(value_after, task.params[0])
    assert not torch.equal(value_after, held)
    expected = Task(name)
    expected.run(optimizer(name, expected.params, lr=0.1), 1)
    assert_same(task.params, expected.params)


def test_a_hook_that_returns_something_else_is_refused(name: str) -> None:
    task = Task(name)
    opt = optimizer(name, task.params)
    opt.register_step_pre_hook(lambda opt, args, kwargs: 1)
    held = deepcopy(task.params)
    task.loss()
    with pytest.raises(RuntimeError, match="must return None or a tuple of"):
        opt.step()
    assert_same(task.params, held)


def test_hooks_around_the_state_dict(name: str) -> None:
    for kwargs in inputs(name):
        opt = optimizer(name, Task(name).params, **kwargs)

        def before(opt: Any) -> None:
            opt.state["made"] = 1

        def after(opt: Any, saved: dict[str, Any]) -> dict[str, Any]:
            return {**saved, "had": saved["state"].pop("made", None)}

        handle = opt.register_state_dict_post_hook(after)
        assert opt.state_dict()["had"] is None
        handle.remove()
        assert "had" not in opt.state_dict()
        opt.register_state_dict_pre_hook(before)
        assert opt.state_dict()["state"]["made"] == 1
        opt.register_state_dict_post_hook(after)
        saved = opt.state_dict()
        assert (saved["had"], "made" in saved["state"]) == (1, False)
        found: list[bool] = []
        opt.register_state_dict_pre_hook(lambda opt, found=found: found.append("made" in opt.state), prepend=True)
        del opt.state["made"]
        opt.state_dict()
        assert found == [False]


def test_hooks_around_loading(name: str) -> None:
    for kwargs in inputs(name):
        opt = optimizer(name, Task(name).params, **kwargs)
        rates: list[float] = []

        def change(opt: Any, saved: dict[str, Any]) -> None:
            saved["param_groups"][0]["lr"] = 0.002

        def replace(opt: Any, saved: dict[str, Any]) -> dict[str, Any]:
            return {**saved, "param_groups": [{**group, "lr": 0.003} for group in saved["param_groups"]]}

        opt.register_load_state_dict_post_hook(lambda opt, rates=rates: rates.append(float(opt.param_groups[0]["lr"])))
        saved = opt.state_dict()
        handle = opt.register_load_state_dict_pre_hook(replace)
        opt.load_state_dict(saved)
        handle.remove()
        opt.register_load_state_dict_pre_hook(change)
        opt.load_state_dict(opt.state_dict())
        opt.register_load_state_dict_pre_hook(replace, prepend=True)  # so `change` is the last that says something
        opt.load_state_dict(opt.state_dict())
        assert rates == [0.003, 0.002, 0.002]
        first: list[str] = []
        opt.register_load_state_dict_post_hook(lambda opt, first=first: first.append("later"))
        opt.register_load_state_dict_post_hook(lambda opt, first=first: first.append("sooner"), prepend=True)
        opt.load_state_dict(opt.state_dict())
        assert first == ["sooner", "later"]


def test_a_hook_that_writes_into_the_state_is_heard_by_the_next_step(name: str) -> None:
    task, expected = Task(name), Task(name)
    opt, twin = optimizer(name, task.params), optimizer(name, expected.params)
    task.run(opt, 2)
    expected.run(twin, 2)

    def forget(opt: Any, args: Any, kwargs: Any) -> None:
        opt.state.clear()

    opt.register_step_pre_hook(forget)
    fresh = optimizer(name, expected.params)
    task.run(opt, 1)
    expected.run(fresh, 1)
    assert_same(task.params, expected.params)
