"""State dicts: saved, loaded, older ones, with and without names, those of PyTorch's own optimizers."""

from __future__ import annotations

import io
import re
from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.torch.pytorch_tests.cases import (  # noqa: E402
    DENSE,
    NAMES,
    Task,
    assert_same,
    information,
    inputs,
    optimizer,
    original,
    without_names,
)

pytestmark = pytest.mark.filterwarnings("error")

BOTH = pytest.mark.parametrize("named", [(False, False), (False, True), (True, False), (True, True)], ids=str)


def given(task: Task, named: bool) -> Any:
    """The parameters of a task, with names or without."""
    return list(zip(("weight", "bias"), task.params, strict=True)) if named else task.params


@BOTH
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_that_loads_goes_on_in_step(name: str, named: tuple[bool, bool]) -> None:
    for kwargs, same in zip(inputs(name, flags=False), inputs(name, flags=False), strict=True):
        task = Task(name)
        opt = optimizer(name, given(task, named[0]), **kwargs)
        task.run(opt, 4)
        twin = Task(name)
        copy = optimizer(name, given(twin, named[1]), **same)
        saved = opt.state_dict()
        kept = deepcopy(saved)
        with torch.no_grad():
            for p, q in zip(task.params, twin.params, strict=True):
                q.copy_(p)
        copy.load_state_dict(deepcopy(saved))
        assert_same(saved, kept)
        assert task.run(opt, 4) == twin.run(copy, 4)
        assert_same(task.params, twin.params)
        assert_same(without_names(opt.state_dict()), without_names(copy.state_dict()))
        names = [copy.state_dict()["param_groups"][0].get("param_names")]
        assert names == [["weight", "bias"]] if any(named) else names == [None]


@pytest.mark.parametrize("name", NAMES)
def test_loading_changes_neither_the_dict_nor_what_it_came_from(name: str) -> None:
    for kwargs, same in zip(inputs(name), inputs(name), strict=True):
        task, twin = Task(name), Task(name)
        opt, copy = optimizer(name, task.params, **kwargs), optimizer(name, twin.params, **same)
        task.run(opt, 2)
        saved = deepcopy(opt.state_dict())
        kept = deepcopy(saved)
        copy.load_state_dict(saved)
        assert_same(saved, kept)
        assert_same(opt.state_dict(), kept)


@pytest.mark.parametrize("name", DENSE)
def test_a_state_dict_from_before_a_flag_came_is_taken(name: str) -> None:
    for kwargs in inputs(name):
        task, twin = Task(name), Task(name)
        opt = optimizer(name, task.params, **kwargs)
        task.run(opt, 3)
        older = deepcopy(opt.state_dict())
        later = [
            key
            for key in information(name).not_og_supported_flags
            if key in older["param_groups"][0] and not kwargs.get(key)
        ]
        for key in later:
            del older["param_groups"][0][key]
        copy = optimizer(name, twin.params, **{key: value for key, value in kwargs.items() if key not in later})
        with torch.no_grad():
            for p, q in zip(task.params, twin.params, strict=True):
                q.copy_(p)
        copy.load_state_dict(older)
        assert task.run(opt, 2) == twin.run(copy, 2)
        assert set(later) <= set(copy.param_groups[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_is_a_number_is_taken(name: str) -> None:
    for kwargs, same in zip(inputs(name), inputs(name), strict=True):
        task, twin = Task(name), Task(name)
        opt, copy = optimizer(name, task.params, **kwargs), optimizer(name, twin.params, **same)
        task.run(opt, 3)
        saved = deepcopy(opt.state_dict())
        for state in saved["state"].values():
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].item()
        with torch.no_grad():
            for p, q in zip(task.params, twin.params, strict=True):
                q.copy_(p)
        copy.load_state_dict(saved)
        assert task.run(opt, 2) == twin.run(copy, 2)


@pytest.mark.parametrize("named", [False, True], ids=["numbered", "named"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_holds_the_state_dict_without_pickled_objects(name: str, named: bool) -> None:
    for kwargs in inputs(name):
        task = Task(name)
        opt = optimizer(name, given(task, named), **kwargs)
        task.run(opt, 2)
        file = io.BytesIO()
        torch.save(opt.state_dict(), file)
        for weights_only in (True, False):
            file.seek(0)
            assert_same(torch.load(file, weights_only=weights_only), opt.state_dict())
        elements = sum(t.numel() for state in opt.state.values() for t in state.values() if isinstance(t, torch.Tensor))
        assert file.getbuffer().nbytes < 4 * elements + 6_000  # the tensors, and no buffer in which they might lie


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_go_to_pytorchs_optimizer_and_come_back(name: str) -> None:
    for ours, theirs, again in zip(inputs(name), inputs(name), inputs(name), strict=True):
        tasks = [Task(name) for _ in range(3)]
        opt, peer, last = (
            make(name, task.params, **kwargs)
            for make, task, kwargs in zip((optimizer, original, optimizer), tasks, (ours, theirs, again), strict=True)
        )
        tasks[0].run(opt, 3)
        assert list(opt.state_dict()) == list(peer.state_dict())
        assert set(peer.state_dict()["param_groups"][0]) <= set(opt.state_dict()["param_groups"][0])
        peer.load_state_dict(deepcopy(opt.state_dict()))
        last.load_state_dict(deepcopy(peer.state_dict()))
        with torch.no_grad():
            for p, q, r in zip(*(task.params for task in tasks), strict=True):
                q.copy_(p)
                r.copy_(p)
        expected = tasks[0].run(opt, 3)
        assert tasks[2].run(last, 3) == expected
        torch.testing.assert_close(tasks[1].run(peer, 3), expected, rtol=1e-4, atol=1e-5)


def test_adam_and_adamw_keep_what_they_are() -> None:
    params = Task("Adam").params
    of_adamw, of_adam = optimizer("AdamW", params).state_dict(), optimizer("Adam", params).state_dict()
    assert [each["param_groups"][0]["decoupled_weight_decay"] for each in (of_adamw, of_adam)] == [True, False]
    adam = optimizer("Adam", params)
    adam.load_state_dict(deepcopy(of_adamw))
    assert adam.param_groups[0]["decoupled_weight_decay"] is True
    older = deepcopy(of_adamw)
    del older["param_groups"][0]["decoupled_weight_decay"]
    for loaded in (of_adam, older):
        adamw = optimizer("AdamW", params)
        adamw.load_state_dict(deepcopy(loaded))
        assert adamw.param_groups[0]["decoupled_weight_decay"] is True
    adam = optimizer("Adam", params)
    adam.load_state_dict(deepcopy(older))
    assert adam.param_groups[0]["decoupled_weight_decay"] is False


BAD_DICTS = {
    "a group more": lambda saved: saved["param_groups"].append(deepcopy(saved["param_groups"][0])),
    "no group": lambda saved: saved["param_groups"].clear(),
    "a parameter less": lambda saved: saved["param_groups"][0]["params"].pop(),
    "a parameter more": lambda saved: saved["param_groups"][0]["params"].append(7),
}


@pytest.mark.parametrize("bad", BAD_DICTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_of_other_groups_is_refused(name: str, bad: str) -> None:
    task = Task(name)
    opt, peer = optimizer(name, task.params), original(name, Task(name).params)
    task.run(opt, 2)
    before, saved, theirs = deepcopy(opt.state_dict()), deepcopy(opt.state_dict()), deepcopy(peer.state_dict())
    BAD_DICTS[bad](saved)
    BAD_DICTS[bad](theirs)
    with pytest.raises(ValueError, match=r"loaded state dict") as expected:
        peer.load_state_dict(theirs)
    with pytest.raises(ValueError, match=re.escape(str(expected.value))):
        opt.load_state_dict(saved)
    assert_same(opt.state_dict(), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", DENSE)
def test_what_is_loaded_gets_the_format_that_a_step_keeps(name: str, dtype: Any) -> None:
    # PyTorch casts a loaded state to the parameter's format, but for `step`. Ours keeps the moments of 16-bit parameters in float32.
    kept = torch.float64 if dtype is torch.float64 else torch.float32
    task = Task(name)
    opt = optimizer(name, task.params)
    task.run(opt, 2)
    other = Task(name, dtype=dtype)
    copy = optimizer(name, other.params)
    copy.load_state_dict(deepcopy(opt.state_dict()))
    for p, q in zip(task.params, other.params, strict=True):
        for key, value in opt.state[p].items():
            if not isinstance(value, torch.Tensor):
                assert copy.state[q][key] == value
                continue
            assert copy.state[q][key].dtype is (torch.float32 if key in ("step", "mu_product") else kept), key
            torch.testing.assert_close(copy.state[q][key], value, check_dtype=False, rtol=0, atol=0)
    other.run(copy, 1)


@pytest.mark.parametrize("name", NAMES)
def test_values_of_ones_own_are_kept(name: str) -> None:
    task, twin = Task(name), Task(name)
    opt, copy = optimizer(name, task.params), optimizer(name, twin.params)
    task.run(opt, 1)
    opt.state["of the optimizer"] = {"k": 1}
    opt.state[task.params[0]]["of the parameter"] = 7
    opt.param_groups[0]["of the group"] = [1, 2]
    saved = opt.state_dict()
    assert saved["state"]["of the optimizer"] == {"k": 1}
    copy.load_state_dict(deepcopy(saved))
    assert copy.state["of the optimizer"] == {"k": 1}
    assert copy.state[twin.params[0]]["of the parameter"] == 7
    assert copy.param_groups[0]["of the group"] == [1, 2]
    twin.run(copy, 1)
    assert copy.state[twin.params[0]]["of the parameter"] == 7


@pytest.mark.parametrize("name", NAMES)
def test_states_go_by_the_numbers_of_the_dict_whatever_they_are(name: str) -> None:
    # As those of a distributed checkpoint, whose keys are names.
    task, twin = Task(name), Task(name)
    opt, copy = optimizer(name, task.params), optimizer(name, twin.params)
    task.run(opt, 2)
    saved = deepcopy(opt.state_dict())
    names = {0: "a", 1: "b"}
    saved["state"] = {names[k]: state for k, state in saved["state"].items()}
    saved["param_groups"][0]["params"] = ["a", "b"]
    copy.load_state_dict(saved)
    assert_same(copy.state_dict()["state"], opt.state_dict()["state"])
    assert copy.state_dict()["param_groups"][0]["params"] == [0, 1]


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_comes_twice_among_the_groups_has_one_number(name: str) -> None:
    task = Task(name)
    opt = optimizer(name, task.params)
    task.run(opt, 1)
    once = opt.state_dict()["param_groups"]
    opt.param_groups.extend(opt.param_groups[:])
    assert_same(opt.state_dict()["param_groups"], [*once, *once])


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_of_the_state_holds_something(name: str) -> None:
    for kwargs in inputs(name, flags=False):
        task = Task(name)
        opt = optimizer(name, task.params, **kwargs)
        task.run(opt, 1)
        assert all(len(state) > 0 for state in opt.state.values())
