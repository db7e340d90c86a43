"""Copies, pickles, what keeps what alive, and memory."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.torch.pytorch_tests.cases import NAMES, Task, assert_same, inputs, optimizer  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.parametrize("name", NAMES)]


def public(opt: Any) -> set[str]:
    return {key for key in vars(opt) if not key.startswith("_")}


def test_a_deep_copy_has_every_public_attribute_and_goes_on(name: str) -> None:
    for kwargs in inputs(name):
        task = Task(name)
        opt = optimizer(name, task.params, **kwargs)
        task.run(opt, 3)
        twin, other = copy.deepcopy((task, opt))
        assert public(other) == public(opt) == {"defaults", "state", "param_groups"}
        assert all(p is q for p, q in zip(other.param_groups[0]["params"], twin.params, strict=True))
        assert_same(other.state_dict(), opt.state_dict())
        assert task.run(opt, 2) == twin.run(other, 2)
        assert_same(task.params, twin.params)
        assert_same(other.state_dict(), opt.state_dict())


def test_a_pickle_goes_on(name: str) -> None:
    for kwargs in inputs(name):
        task = Task(name)
        opt = optimizer(name, task.params, **kwargs)
        for steps in (0, 2):
            task.run(opt, steps)
            twin, other = pickle.loads(pickle.dumps((task, opt)))
            assert type(other) is type(opt)
            assert task.run(opt, 2) == twin.run(other, 2)
            assert_same(task.params, twin.params)
            assert_same(other.state_dict(), opt.state_dict())


def test_a_copy_steps_its_own_parameters_only(name: str) -> None:
    task = Task(name)
    opt = optimizer(name, task.params)
    task.run(opt, 2)
    held, state = [p.detach().clone() for p in task.params], copy.deepcopy(opt.state_dict())
    twin, other = copy.deepcopy((task, opt))
    twin.run(other, 2)
    assert_same([p.detach() for p in task.params], held)
    assert_same(opt.state_dict(), state)


def test_hooks_stay_behind_in_a_pickle_and_can_be_set_again(name: str) -> None:
    task = Task(name)
    opt = optimizer(name, task.params)
    calls: list[str] = []
    opt.register_step_post_hook(lambda opt, args, kwargs: calls.append("the first"))
    other = pickle.loads(pickle.dumps(opt))
    other.step()
    assert calls == []
    other.register_step_pre_hook(lambda opt, args, kwargs: calls.append("its own"))
    other.step()
    opt.step()
    assert calls == ["its own", "the first"]


@pytest.fixture
def no_collector() -> Any:
    """A test in which nothing but reference counts frees memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_an_optimizer_is_gone_with_its_last_reference(name: str) -> None:
    task = Task(name)
    opt = optimizer(name, task.params)
    task.run(opt, 2)
    kept = opt.state_dict()
    gone = [weakref.ref(opt), *(weakref.ref(p) for p in task.params)]
    del opt, task
    assert [each() for each in gone] == [None, None, None]
    held = [value for state in kept["state"].values() for value in state.values() if isinstance(value, torch.Tensor)]
    assert all(torch.isfinite(value).all() for value in held)


@pytest.mark.usefixtures("no_collector")
def test_an_optimizer_is_gone_with_its_scheduler_and_hooks(name: str) -> None:
    task = Task(name)
    opt = optimizer(name, task.params)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, step_size=1)
    calls: list[int] = []
    opt.register_step_post_hook(lambda opt, args, kwargs: calls.append(1))
    task.run(opt, 2, (scheduler,))
    gone = weakref.ref(scheduler), weakref.ref(task.params[0])
    del opt, scheduler, task
    gc.collect()  # PyTorch's schedulers hang a wrapper of `step` on the optimizer, which refers to it
    assert [each() for each in gone] == [None, None]
    assert calls == [1, 1]


@pytest.mark.usefixtures("no_collector")
def test_gradients_are_not_kept_alive(name: str) -> None:
    task = Task(name)
    opt = optimizer(name, task.params)
    task.run(opt, 2)
    gradients = [weakref.ref(p.grad) for p in task.params]
    opt.step()
    opt.zero_grad()
    assert [each() for each in gradients] == [None, None]


def test_steps_leave_no_tensor_behind(name: str) -> None:
    def tensors() -> int:
        gc.collect()
        # By their types: what stands for a deprecated name warns of every question.
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    for kwargs in inputs(name, flags=False):
        task = Task(name)
        opt = optimizer(name, task.params, **kwargs)
        task.run(opt, 3)
        before = tensors()
        task.run(opt, 5)
        opt.state_dict()
        assert tensors() == before
