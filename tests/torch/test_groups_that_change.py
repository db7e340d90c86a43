"""Groups, and the parameters in them, that are given in other forms, added, replaced or taken away; models that move between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from gpu_adam.torch import Adam  # noqa: E402
from tests.support.torch_training import assert_close, assert_same, network, train  # noqa: E402


def keys_of_the_users(cls: Any) -> Any:
    """Trainers keep what they need to know of a parameter in its group."""
    model = network()
    optimizer = cls([{"params": [p], "lr_scale": 0.5, "layer": name} for name, p in model.named_parameters()], lr=0.01)
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_scale"]
    train(model, optimizer, 3)
    assert [group["layer"] for group in optimizer.param_groups] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    return model


def a_tensor_in_place_of_a_list(cls: Any) -> Any:
    model = network()
    return train(model, cls([{"params": p, "lr": 0.01} for p in model.parameters()]), 3)


def named_parameters(cls: Any) -> Any:
    model = network()
    optimizer = cls(model.named_parameters(), lr=0.01)
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]
    return train(model, optimizer, 3)


def options_of_a_group(cls: Any) -> Any:
    model = network()
    groups = [
        {"params": model[0].parameters(), "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1},
        {"params": model[2].parameters(), "amsgrad": True, "maximize": True},
    ]
    return train(model, cls(groups, lr=0.01), 5)


def a_group_is_added(cls: Any) -> Any:
    model = network()
    optimizer = cls(model[0].parameters(), lr=0.01)
    train(model, optimizer, 2)
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.005})
    return train(model, optimizer, 2)


def a_group_is_popped(cls: Any) -> Any:
    model = network()
    optimizer = cls([{"params": model[0].parameters()}, {"params": model[2].parameters()}], lr=0.01)
    train(model, optimizer, 2)
    optimizer.param_groups.pop()
    return train(model, optimizer, 2)


def a_parameter_is_taken_out(cls: Any) -> Any:
    model = network()
    optimizer = cls(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    del optimizer.param_groups[0]["params"][1]
    return train(model, optimizer, 2)


def all_parameters_are_replaced(cls: Any) -> Any:
    """As Accelerate and FSDP do: the model is wrapped, and the group gets the wrapper's parameters."""
    optimizer = cls(network().parameters(), lr=0.01)
    model = network(seed=5)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    return train(model, optimizer, 3)


def one_parameter_is_replaced_after_steps(cls: Any) -> Any:
    """As when an embedding is given more rows."""
    model = network()
    optimizer = cls(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    old = model[2].bias
    model[2].bias = torch.nn.Parameter(torch.full_like(old, 0.5))
    params = optimizer.param_groups[0]["params"]
    params[3] = model[2].bias
    del optimizer.state[old]
    return train(model, optimizer, 2)


def groups_are_set_anew(cls: Any) -> Any:
    model = network()
    optimizer = cls(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    [group] = optimizer.param_groups
    optimizer.param_groups = [{**group, "params": [p], "lr": 0.02} for p in group["params"]]
    return train(model, optimizer, 2)


def double_before_the_first_step(cls: Any) -> Any:
    model = network()
    optimizer = cls(model.parameters(), lr=0.01)
    model.double()
    return train(model, optimizer, 3)


def data_replaced_after_steps(cls: Any) -> Any:
    model = network()
    optimizer = cls(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    for p in model.parameters():
        p.data = p.detach().clone()
    return train(model, optimizer, 2)


CHANGES = [
    keys_of_the_users,
    a_tensor_in_place_of_a_list,
    named_parameters,
    options_of_a_group,
    a_group_is_added,
    a_group_is_popped,
    a_parameter_is_taken_out,
    all_parameters_are_replaced,
    one_parameter_is_replaced_after_steps,
    groups_are_set_anew,
    double_before_the_first_step,
    data_replaced_after_steps,
]


@pytest.mark.parametrize("trained", CHANGES, ids=lambda change: change.__name__)
def test_it_follows_torch_optim(trained: Callable[[Any], Any]) -> None:
    assert_close(trained(Adam), trained(torch.optim.Adam))


def test_a_model_is_made_double_after_some_steps() -> None:
    # PyTorch's own moments stay float32 then, which its CPU step refuses; ours are taken along.
    model, expected = network(), network()
    optimizer, peer = Adam(model.parameters(), lr=0.01), torch.optim.Adam(expected.parameters(), lr=0.01)
    train(model, optimizer, 2).double()
    train(expected, peer, 2).double()
    for state in peer.state.values():
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = state[name].double()
    assert_close(train(model, optimizer, 2), train(expected, peer, 2))


def test_a_popped_group_is_left_alone() -> None:
    model, first = network(), network()
    optimizer = Adam([{"params": model[0].parameters()}, {"params": model[2].parameters()}], lr=0.01)
    optimizer.param_groups.pop()
    train(model, optimizer, 2)
    assert_same(model[2], first[2])
