"""The classes themselves: what they derive from, their signatures, names in a profile, how they show themselves."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
import gpu_adam.torch as ours  # noqa: E402
from tests.torch.pytorch_tests.cases import NAMES, Task, information, inputs, optimizer, original  # noqa: E402
from tests.torch.pytorch_tests.left_out import differs  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.parametrize("name", NAMES)]


def test_it_is_an_optimizer_of_pytorch_by_pytorchs_name(name: str) -> None:
    opt = optimizer(name, Task(name).params)
    assert isinstance(opt, torch.optim.Optimizer)
    assert type(opt).__name__ == information(name).name == name
    assert type(opt).__module__.split(".")[0] == ours.__name__.split(".")[0]


def test_arguments_are_pytorchs_and_ours_come_behind(name: str) -> None:
    expected = inspect.signature(getattr(torch.optim, name)).parameters
    found = inspect.signature(getattr(ours, name)).parameters
    assert [key for key in found if key in expected] == list(expected)
    for key, parameter in expected.items():
        assert (found[key].default, found[key].kind) == (parameter.default, parameter.kind), key
    own = [parameter for key, parameter in found.items() if key not in expected]
    assert own.pop().kind is inspect.Parameter.VAR_KEYWORD
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in own)
    assert all(parameter.default is not inspect.Parameter.empty for parameter in own)


def test_it_has_every_public_method_of_pytorchs(name: str) -> None:
    methods = {key for key in dir(getattr(torch.optim, name)) if not key.startswith("_")}
    assert all(hasattr(getattr(ours, name), key) or differs(name, key) for key in methods)


def test_defaults_and_groups_are_pytorchs(name: str) -> None:
    for kwargs in inputs(name):
        opt, peer = optimizer(name, Task(name).params, **kwargs), original(name, Task(name).params, **kwargs)
        assert {key: opt.defaults[key] for key in peer.defaults} == peer.defaults
        for group, expected in zip(opt.param_groups, peer.param_groups, strict=True):
            assert {key: group[key] for key in expected if key != "params"} == {
                key: expected[key] for key in expected if key != "params"
            }


def test_it_shows_itself_as_pytorchs_do(name: str) -> None:
    for kwargs in inputs(name):
        lines, expected = (repr(make(name, Task(name).params, **kwargs)).splitlines() for make in (optimizer, original))
        assert lines[0] == expected[0] == f"{name} ("
        assert lines[-1] == ")"
        assert set(expected) <= set(lines)


def test_a_profile_names_its_steps(name: str) -> None:
    task = Task(name)
    opt = optimizer(name, task.params)
    task.loss()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        opt.step()
        opt.zero_grad()
    events = {event.key for event in profile.key_averages()}
    assert {f"Optimizer.step#{name}.step", f"Optimizer.zero_grad#{name}.zero_grad"} <= events
    assert opt._zero_grad_profile_name == f"Optimizer.zero_grad#{name}.zero_grad"


def test_a_class_of_ones_own_may_derive_from_it(name: str) -> None:
    calls: list[str] = []

    class Derived(getattr(ours, name)):  # type: ignore[misc]
        def step(self, closure: Any = None) -> Any:
            calls.append("step")
            return super().step(closure)

        def add_param_group(self, param_group: dict[str, Any]) -> None:
            calls.append("add")
            super().add_param_group(param_group)

    task, twin = Task(name), Task(name)
    opt = Derived(task.params)
    opt.register_step_pre_hook(lambda opt, args, kwargs: calls.append("hook"))
    assert task.run(opt, 2) == twin.run(optimizer(name, twin.params), 2)
    assert calls[0] == "add"
    assert calls.count("step") == 2
    assert calls.count("hook") >= 2
    assert repr(opt).startswith("Derived (")
