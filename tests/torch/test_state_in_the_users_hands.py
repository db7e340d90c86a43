"""`state[p]`: read, edited in place, assigned, taken away between steps, with the weights that torch.optim gives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from gpu_adam.torch import Adam  # noqa: E402
from tests.support.torch_training import assert_close, network, train  # noqa: E402


def test_it_is_there_after_the_first_step_with_torch_optims_names() -> None:
    model = network()
    optimizer = Adam(model.parameters())
    assert len(optimizer.state) == 0
    train(model, optimizer, 2)
    for p in model.parameters():
        state = optimizer.state[p]
        assert {"step", "exp_avg", "exp_avg_sq"} <= set(state)
        assert state["step"].shape == ()
        assert float(state["step"]) == 2.0
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == p.shape


def test_its_numbers_are_those_of_torch_optim() -> None:
    states = []
    for cls in (Adam, torch.optim.Adam):
        model = network()
        optimizer = cls(model.parameters())
        train(model, optimizer, 3)
        states.append([{name: s[name] for name in ("step", "exp_avg", "exp_avg_sq")} for s in optimizer.state.values()])
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-7)


def test_it_is_read_while_training_goes_on() -> None:
    model = network()
    optimizer = Adam(model.parameters())
    train(model, optimizer, 1)
    state = optimizer.state[model[0].weight]
    before = state["exp_avg"].clone()
    train(model, optimizer, 1)
    assert state is optimizer.state[model[0].weight]
    assert float(state["step"]) == 2.0
    assert not torch.equal(state["exp_avg"], before)


def a_moment_is_zeroed(optimizer: Any) -> None:
    for state in optimizer.state.values():
        state["exp_avg"].zero_()


def one_row_is_zeroed(optimizer: Any) -> None:
    # As when units that have died begin again.
    state = next(iter(optimizer.state.values()))
    state["exp_avg"][3] = 0
    state["exp_avg_sq"][3] = 0


def the_count_is_edited(optimizer: Any) -> None:
    for state in optimizer.state.values():
        state["step"] += 10


def a_moment_is_assigned(optimizer: Any) -> None:
    for state in optimizer.state.values():
        state["exp_avg_sq"] = torch.full_like(state["exp_avg_sq"], 0.01)


def a_moment_of_other_strides_is_assigned(optimizer: Any) -> None:
    state = next(iter(optimizer.state.values()))
    state["exp_avg"] = state["exp_avg"].t().contiguous().t()


def entries_are_assigned(optimizer: Any) -> None:
    for p, state in list(optimizer.state.items()):
        optimizer.state[p] = {name: value.clone().add_(1 if name == "step" else 0.01) for name, value in state.items()}


def an_entry_is_deleted(optimizer: Any) -> None:
    del optimizer.state[next(iter(optimizer.state))]


def an_entry_is_emptied(optimizer: Any) -> None:
    next(iter(optimizer.state.values())).clear()


def all_is_cleared(optimizer: Any) -> None:
    optimizer.state.clear()


def all_is_replaced(optimizer: Any) -> None:
    optimizer.state = defaultdict(dict)


EDITS = [
    a_moment_is_zeroed,
    one_row_is_zeroed,
    the_count_is_edited,
    a_moment_is_assigned,
    a_moment_of_other_strides_is_assigned,
    entries_are_assigned,
    an_entry_is_deleted,
    an_entry_is_emptied,
    all_is_cleared,
    all_is_replaced,
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_the_next_step_takes_up_what_was_done(edit: Callable[[Any], None]) -> None:
    models = []
    for cls in (Adam, torch.optim.Adam):
        model = network()
        optimizer = cls(model.parameters(), lr=0.01)
        train(model, optimizer, 2)
        edit(optimizer)
        train(model, optimizer, 3)
        models.append(model)
    assert_close(*models)


def test_what_the_user_keeps_in_it_stays() -> None:
    model = network()
    optimizer = Adam(model.parameters())
    train(model, optimizer, 1)
    optimizer.state[model[0].weight]["mine"] = "a note"
    train(model, optimizer, 1)
    assert optimizer.state[model[0].weight]["mine"] == "a note"
    assert float(optimizer.state[model[0].weight]["step"]) == 2.0
