"""Every optimizer moves the loss in the right direction: with all arguments, schedulers, groups, and a tensor as learning rate."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.torch.pytorch_tests.cases import (  # noqa: E402
    NAMES,
    Task,
    assert_moved,
    assert_same,
    capturable_inputs,
    inputs,
    optimizer,
    schedulers,
)
from tests.torch.pytorch_tests.left_out import differs  # noqa: E402

pytestmark = pytest.mark.filterwarnings("error")

LAYOUTS = [
    (name, contiguous)
    for name in NAMES
    for contiguous in (True, False)
    if contiguous or not differs(name, "strided parameters")
]


@pytest.mark.parametrize(("name", "contiguous"), LAYOUTS)
def test_it_moves_in_the_right_direction(name: str, contiguous: bool) -> None:
    for kwargs in inputs(name):
        task = Task(name, contiguous=contiguous)
        assert_moved(task.run(optimizer(name, task.params, **kwargs), 12), kwargs)


@pytest.mark.parametrize(("name", "contiguous"), LAYOUTS)
def test_it_moves_in_the_right_direction_with_schedulers(name: str, contiguous: bool) -> None:
    for makers in schedulers(name):
        for kwargs in inputs(name, flags=False):
            task = Task(name, contiguous=contiguous)
            opt = optimizer(name, task.params, **kwargs)
            assert_moved(task.run(opt, 12, tuple(make(opt) for make in makers)), kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_groups_with_schedulers_move_in_the_right_direction(name: str) -> None:
    for makers in schedulers(name):
        task = Task(name)
        weight, bias = task.params
        opt = optimizer(name, [{"params": [weight]}, {"params": [bias], "lr": 0.01}])
        assert_moved(task.run(opt, 12, tuple(make(opt) for make in makers)), {})


@pytest.mark.parametrize("name", NAMES)
def test_arguments_may_be_those_of_a_group(name: str) -> None:
    for kwargs in inputs(name):
        task, twin = Task(name), Task(name)
        opt = optimizer(name, [{"params": task.params, **kwargs}])
        losses = task.run(opt, 8)
        assert_moved(losses, kwargs)
        assert losses == twin.run(optimizer(name, twin.params, **kwargs), 8)
        assert_same(task.params, twin.params)


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_is_that_of_the_group(name: str) -> None:
    for kwargs in inputs(name):
        decayed, free = {**kwargs, "weight_decay": 0.1}, {**kwargs, "weight_decay": 0.0}
        task, all_free = Task(name), Task(name)
        weight, bias = task.params
        opt = optimizer(name, [{"params": [weight], **free}, {"params": [bias], **decayed}])
        assert_moved(task.run(opt, 8), kwargs)
        opt = optimizer(name, [{"params": [p], **free} for p in all_free.params])
        all_free.run(opt, 8)
        assert not torch.equal(bias, all_free.params[1])


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_rate_is_that_of_the_group(name: str) -> None:
    for kwargs in inputs(name):
        rate = kwargs.pop("lr", 0.001)
        task, idle = Task(name), Task(name, seed=1)
        held = [p.detach().clone() for p in idle.params]
        opt = optimizer(name, [{"params": task.params, "lr": rate, **kwargs}, {"params": idle.params}], lr=1e-28)
        losses = []
        for _ in range(8):
            losses.append(float(task.loss()))
            idle.loss()
            opt.step()
        assert_moved([*losses, float(task.loss())], kwargs)
        for p, before in zip(idle.params, held, strict=True):
            torch.testing.assert_close(p.detach(), before, rtol=0, atol=1e-24)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_of_one_element_is_a_learning_rate(name: str, shape: tuple[int, ...]) -> None:
    for kwargs in inputs(name):
        kwargs.pop("lr", None)
        task, twin = Task(name), Task(name)
        rate = torch.tensor(0.0625).reshape(shape)
        opt = optimizer(name, task.params, lr=rate, **kwargs)
        losses = task.run(opt, 4)
        assert losses == twin.run(optimizer(name, twin.params, lr=0.0625, **kwargs), 4)
        assert_same(task.params, twin.params)
        assert opt.param_groups[0]["lr"] is rate
        assert_same(rate, torch.tensor(0.0625).reshape(shape))
        rate.fill_(0.0)  # as a scheduler does
        weight = task.params[0].detach().clone()
        task.run(opt, 1)
        assert torch.equal(task.params[0], weight)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("Adagrad", "SGD", "SparseAdam")])
def test_capturable_and_tensors_as_hyperparameters_change_nothing_on_a_cpu(name: str) -> None:
    # PyTorch takes these on a GPU only.
    given = capturable_inputs(name)
    assert given
    for kwargs in given:
        task, twin = Task(name), Task(name)
        plain = {key: as_number(value) for key, value in kwargs.items() if key != "capturable"}
        losses = task.run(optimizer(name, task.params, **kwargs), 6)
        assert losses == twin.run(optimizer(name, twin.params, **plain), 6)
        assert_same(task.params, twin.params)


def as_number(value: Any) -> Any:
    """A tensor, or a tuple of them, as numbers."""
    if isinstance(value, tuple):
        return tuple(as_number(each) for each in value)
    return value.item() if isinstance(value, torch.Tensor) else value
