"""What PyTorch's optimizers refuse or warn of, ours refuse too: in PyTorch's words, but for a table."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.torch.pytorch_tests.cases import NAMES, Task, optimizer, original, refusals  # noqa: E402
from tests.torch.pytorch_tests.left_out import REFUSED_OTHERWISE  # noqa: E402


@pytest.mark.parametrize("name", NAMES)
def test_what_pytorch_refuses_is_refused(name: str) -> None:
    for case in refusals(name):
        otherwise = REFUSED_OTHERWISE.get(case.description)
        error = otherwise.error if otherwise else case.error
        message = otherwise.message if otherwise else case.message
        if error is None:
            optimizer(name, case.params or Task(name).params, **case.kwargs)
            continue
        expected = pytest.warns if issubclass(error, Warning) else pytest.raises
        with expected(error, match=message):
            optimizer(name, case.params, **case.kwargs)


def test_every_row_of_the_table_is_of_something_that_pytorch_refuses() -> None:
    assert set(REFUSED_OTHERWISE) <= {case.description for name in NAMES for case in refusals(name)}


BAD_GROUPS = {
    "no dict": lambda p: [p],
    "a set": lambda p: {"params": {p}},
    "a number": lambda p: {"params": [1.0]},
    "an array": lambda p: {"params": [p.detach().numpy()]},
    "no leaf": lambda p: {"params": [p * 2]},
    "parameters of another group": lambda p: {"params": [p]},
    "names among parameters without": lambda p: {"params": [("weight", torch.nn.Parameter(torch.zeros(2)))]},
}


def refused(opt: Any, group: Any) -> Exception:
    """The error that comes of adding a group, which changes nothing."""
    before = [dict(group) for group in opt.param_groups]
    with pytest.raises((TypeError, ValueError)) as caught:
        opt.add_param_group(group)
    assert len(opt.param_groups) == len(before)
    for now, then in zip(opt.param_groups, before, strict=True):
        assert now.keys() == then.keys()
        assert all(now[key] is then[key] for key in now)
    return caught.value


@pytest.mark.parametrize("bad", BAD_GROUPS)
@pytest.mark.parametrize("name", NAMES)
def test_a_group_that_cannot_be_is_refused_as_by_pytorch(name: str, bad: str) -> None:
    task, twin = Task(name), Task(name)
    opt, peer = optimizer(name, task.params), original(name, twin.params)
    task.run(opt, 1)
    error = refused(opt, BAD_GROUPS[bad](task.params[0]))
    expected = refused(peer, BAD_GROUPS[bad](twin.params[0]))
    assert type(error) is type(expected)
    assert str(error).split("[")[0] == str(expected).split("[")[0]  # a tensor's own numbers may follow
    task.run(opt, 1)


@pytest.mark.parametrize("name", NAMES)
def test_no_parameters_at_all_are_refused(name: str) -> None:
    for params in ([], iter(()), ()):
        with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
            optimizer(name, params)


@pytest.mark.parametrize("name", NAMES)
def test_a_negative_learning_rate_is_refused(name: str) -> None:
    for lr in (-1.0, -1e-30):
        with pytest.raises(ValueError, match=re.escape(f"{lr}")):
            optimizer(name, Task(name).params, lr=lr)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "SparseAdam"])
def test_differentiable_is_refused(name: str) -> None:
    # In the table: what is computed by a kernel of ours has no graph of autograd.
    with pytest.raises((ValueError, NotImplementedError, RuntimeError), match="differentiable"):
        optimizer(name, Task(name).params, differentiable=True)
    optimizer(name, Task(name).params, differentiable=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_new_group_takes_defaults_and_is_stepped(name: str) -> None:
    task = Task(name)
    weight, bias = task.params
    opt = optimizer(name, [weight], lr=0.01)
    task.run(opt, 1)
    held = bias.detach().clone()
    opt.add_param_group({"params": bias, "extra": "kept"})  # a single tensor, and a key of one's own
    assert [group["lr"] for group in opt.param_groups] == [0.01, 0.01]
    assert opt.param_groups[1]["params"] == [bias]
    assert opt.param_groups[1]["extra"] == "kept"
    assert opt.param_groups[1].keys() - opt.param_groups[0].keys() == {"extra"}
    task.run(opt, 1)
    assert not torch.equal(bias, held)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_is_right_is_warned_of(name: str) -> None:
    task = Task(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt = optimizer(name, task.params)
        task.run(opt, 3)
        opt.load_state_dict(opt.state_dict())
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
        task.run(opt, 1)
