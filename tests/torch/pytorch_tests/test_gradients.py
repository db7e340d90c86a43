"""Gradients that are absent, zero, or of empty parameters; gradients are only read; closures; `zero_grad`."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.torch.pytorch_tests.cases import (  # noqa: E402
    DENSE,
    NAMES,
    Task,
    assert_same,
    inputs,
    optimizer,
    original,
    set_gradients,
    takes_sparse_only,
)
from tests.torch.pytorch_tests.left_out import differs  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("error")]


def one() -> Any:
    return torch.tensor([1.0])


@pytest.mark.parametrize("requires_grad", [True, False], ids=["leaves", "no gradients wanted"])
@pytest.mark.parametrize("name", NAMES)
def test_without_gradients_a_step_does_nothing(name: str, requires_grad: bool) -> None:
    for kwargs in inputs(name):
        params = [torch.full((2, 3), 1.5, requires_grad=requires_grad) for _ in range(2)]
        opt, peer = optimizer(name, params, **kwargs), original(name, [p.clone().detach() for p in params], **kwargs)
        fresh = opt.state_dict()
        for each in (opt, peer):
            each.step()
            each.step(one)
        assert_same(opt.state_dict(), fresh)
        if not differs(name, "state from the start"):
            assert_same(opt.state_dict()["state"], peer.state_dict()["state"])
        assert all(torch.equal(p, torch.full((2, 3), 1.5)) for p in params)


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_without_a_gradient_is_left_alone(name: str) -> None:
    for kwargs in inputs(name):
        task = Task(name)
        bias = task.params[1]
        opt = optimizer(name, task.params, **kwargs)
        for _ in range(2):
            task.loss()
            bias.grad = None
            held, count = bias.detach().clone(), dict(opt.state.get(bias, {}))
            opt.step()
            assert torch.equal(bias, held)
            assert_same(dict(opt.state.get(bias, {})), count)
        task.run(opt, 1)
        weight_steps, bias_steps = (opt.state[p].get("step") for p in task.params)
        assert weight_steps is None or (float(weight_steps), float(bias_steps)) == (3, 1)


@pytest.mark.parametrize("name", NAMES)
def test_zero_gradients_without_decay_move_nothing(name: str) -> None:
    for kwargs in inputs(name):
        if not takes_sparse_only(name):  # SparseAdam has no decay
            kwargs["weight_decay"] = 0.0
        p = torch.nn.Parameter(torch.linspace(-1, 1, 5).reshape(5, 1))
        held = p.detach().clone()
        opt = optimizer(name, [p], **kwargs)
        for _ in range(3):
            p.grad = torch.zeros_like(p)
            if takes_sparse_only(name):
                p.grad = torch.sparse_coo_tensor(
                    torch.empty(1, 0, dtype=torch.int64), torch.empty(0, 1), (5, 1), check_invariants=True
                )
            opt.step(one)
            assert torch.equal(p, held)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_only_read(name: str) -> None:
    for kwargs in inputs(name):
        p = torch.nn.Parameter(torch.ones(5, 1))
        opt = optimizer(name, [p], **kwargs)
        set_gradients(name, [p], [torch.linspace(-1, 1, 5).reshape(5, 1)])
        gradient, version, held = p.grad, p.grad._version, p.grad.to_dense().clone()
        for _ in range(4):
            opt.step(one)
            assert p.grad is gradient
            assert gradient._version == version
            assert torch.equal(gradient.to_dense(), held)


@pytest.mark.parametrize("name", DENSE)
def test_empty_parameters_are_stepped_like_others(name: str) -> None:
    for kwargs in inputs(name):
        shapes = [(0,), (2, 3), (3, 0), (), (0, 4, 2)]
        params = [torch.nn.Parameter(torch.full(shape, 0.5)) for shape in shapes]
        opt = optimizer(name, params, **kwargs)
        for _ in range(3):
            for p in params:
                p.grad = torch.ones_like(p)
            opt.step()
        expected = float(params[3].detach())
        assert expected != 0.5
        for p in params:
            torch.testing.assert_close(p.detach(), torch.full(p.shape, expected), rtol=1e-6, atol=0)
            for key, value in opt.state[p].items():
                assert not isinstance(value, torch.Tensor) or value.shape in (p.shape, ()), key
        only_empty = optimizer(name, params[:1], **kwargs)
        only_empty.step()
        only_empty.load_state_dict(only_empty.state_dict())
        only_empty.step()


@pytest.mark.parametrize("name", NAMES)
def test_the_closure_is_called_once_with_gradients_on_and_its_value_returned(name: str) -> None:
    for kwargs in inputs(name):
        task, twin = Task(name), Task(name)
        opt, plain = optimizer(name, task.params, **kwargs), optimizer(name, twin.params, **kwargs)
        enabled: list[bool] = []

        def closure(task: Task = task, enabled: list[bool] = enabled) -> Any:
            enabled.append(torch.is_grad_enabled())
            return task.loss()

        for call in (opt.step, lambda closure, opt=opt: opt.step(closure=closure)):
            with torch.no_grad():
                value = call(closure)
            assert_same(value, twin.loss())
            plain.step()
            assert_same(task.params, twin.params)
        assert enabled == [True, True]
        assert opt.step() is None


@pytest.mark.parametrize("name", NAMES)
def test_an_exception_in_the_closure_changes_nothing(name: str) -> None:
    task = Task(name)
    opt = optimizer(name, task.params)
    task.run(opt, 1)
    held, state = [p.detach().clone() for p in task.params], opt.state_dict()

    def closure() -> Any:
        raise KeyError("of the closure")

    with pytest.raises(KeyError, match="of the closure"):
        opt.step(closure)
    assert_same([p.detach() for p in task.params], held)
    assert_same(opt.state_dict(), state)


@pytest.mark.parametrize("name", NAMES)
def test_zero_grad_drops_gradients_or_fills_them(name: str) -> None:
    task = Task(name)
    opt = optimizer(name, task.params)
    task.loss()
    gradients = [p.grad for p in task.params]
    opt.zero_grad(set_to_none=False)
    for p, gradient in zip(task.params, gradients, strict=True):
        assert p.grad is gradient
        assert not gradient.to_dense().any()
    opt.zero_grad()
    assert [p.grad for p in task.params] == [None, None]
    opt.zero_grad(set_to_none=False)
    assert [p.grad for p in task.params] == [None, None]


@pytest.mark.parametrize("name", NAMES)
def test_autograd_sees_that_a_step_has_written(name: str) -> None:
    task = Task(name)
    opt = optimizer(name, task.params)
    task.loss()
    weight = task.params[0]
    squares = weight.square().sum()  # needs the weight as it is now
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.backward()
    weight.square().sum().backward()
