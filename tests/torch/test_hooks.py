"""Hooks around steps and state dicts, of one optimizer and of all."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from gpu_adam.torch import Adam  # noqa: E402
from tests.support.torch_training import assert_same, network, train  # noqa: E402


def test_hooks_of_a_step_run_around_it_until_they_are_removed() -> None:
    model = network()
    optimizer = Adam(model.parameters())
    weight, said = model[0].weight, []
    handles = [
        optimizer.register_step_pre_hook(lambda opt, args, kwargs: said.append(("before", weight[0, 0].item()))),
        optimizer.register_step_post_hook(lambda opt, args, kwargs: said.append(("after", weight[0, 0].item()))),
    ]
    first = weight[0, 0].item()
    train(model, optimizer, 1)
    assert said == [("before", first), ("after", weight[0, 0].item())]
    assert first != weight[0, 0].item()
    for handle in handles:
        handle.remove()
    train(model, optimizer, 1)
    assert len(said) == 2


def test_a_hook_before_the_step_may_change_the_gradients() -> None:
    model, still = network(), network()
    optimizer = Adam(model.parameters())
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: [p.grad.zero_() for p in model.parameters()] and None)
    train(model, optimizer, 2)
    assert_same(model, still)


def test_a_hook_before_the_step_may_give_it_another_closure() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = Adam([p])
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: ((opt, lambda: 7.0), {}))
    assert optimizer.step(lambda: 3.0) == 7.0


def test_hooks_of_all_optimizers_see_ours() -> None:
    said: list[Any] = []
    handles = [
        register_optimizer_step_pre_hook(lambda opt, args, kwargs: said.append(("before", opt))),
        register_optimizer_step_post_hook(lambda opt, args, kwargs: said.append(("after", opt))),
    ]
    try:
        model = network()
        optimizer = Adam(model.parameters())
        train(model, optimizer, 2)
    finally:
        for handle in handles:
            handle.remove()
    assert said == [("before", optimizer), ("after", optimizer)] * 2


def test_hooks_of_state_dicts_see_them_and_may_replace_them() -> None:
    model = network()
    optimizer = Adam(model.parameters(), lr=0.01)
    said = []
    optimizer.register_state_dict_pre_hook(lambda opt: said.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda opt, saved: {**saved, "note": "mine"})
    optimizer.register_load_state_dict_pre_hook(lambda opt, given: said.append(given.pop("note")))
    optimizer.register_load_state_dict_post_hook(lambda opt: said.append("after loading"))
    train(model, optimizer, 1)
    saved = optimizer.state_dict()
    assert saved["note"] == "mine"
    optimizer.load_state_dict(saved)
    assert said == ["before saving", "mine", "after loading"]


def test_a_hook_before_loading_may_give_another_state_dict() -> None:
    model = network()
    optimizer = Adam(model.parameters(), lr=0.01)
    train(model, optimizer, 1)
    other = optimizer.state_dict()
    other["param_groups"][0]["lr"] = 0.5
    optimizer.register_load_state_dict_pre_hook(lambda opt, given: other)
    optimizer.load_state_dict({"state": {}, "param_groups": []})
    assert optimizer.param_groups[0]["lr"] == 0.5
