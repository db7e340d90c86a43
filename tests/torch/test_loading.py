"""State dicts of this package, of PyTorch's optimizers and of distributed checkpoints are taken up, to the bit."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.support.torch_classes import (  # noqa: E402
    DENSE,
    NAMES,
    RICH,
    core,
    counted,
    ours,
    parameters,
    same_bits,
    set_gradients,
    snapshot,
    state_bits,
    theirs,
    train,
    trained,
)


def fresh(
    name: str = "Adam", like: list[Any] | None = None, make: Any = ours, **settings: Any
) -> tuple[list[Any], Any]:
    """An optimizer that has not stepped, over copies of parameters."""
    params = [torch.nn.Parameter(p.detach().clone()) for p in (parameters() if like is None else like)]
    return params, make(name, params, **settings)


@counted
@pytest.mark.parametrize("name", DENSE)
def test_a_run_that_was_loaded_goes_on_as_if_it_had_never_stopped(name: str, options: dict[str, Any]) -> None:
    params, opt = trained(name=name, **options)
    saved = opt.state_dict()
    before = snapshot(saved)
    own, other = fresh(name, params, **options)
    for _ in range(2):  # loading twice is loading once
        other.load_state_dict(saved)
        assert snapshot(saved) == before
        assert other.param_groups[0]["lr"] == 0.1
    assert state_bits(other) == state_bits(opt)
    train(own, other, range(3, 6))
    assert snapshot(saved) == before
    train(params, opt, range(3, 6))
    assert same_bits(own, params)
    assert state_bits(other) == state_bits(opt)
    other.load_state_dict(opt.state_dict())  # between steps of one that has an engine
    opt.load_state_dict(opt.state_dict())  # its own
    train(own, other, [6])
    train(params, opt, [6])
    assert same_bits(own, params)


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_go_to_pytorchs_class_and_back(name: str) -> None:
    settings = {"lr": 0.1, **RICH.get(name, {})}
    first = parameters(((3, 4), (5, 2)))
    params, opt = fresh(name, first, **settings)
    peers, peer = fresh(name, first, make=theirs, **settings)

    def step(*pairs: tuple[list[Any], Any], seed: int) -> None:
        for own, one in pairs:
            set_gradients(own, seed)
            if name == "SparseAdam":
                for p in own:
                    p.grad = p.grad.to_sparse(1)
            one.step()

    for seed in range(3):
        step((params, opt), (peers, peer), seed=seed)
    # PyTorch's is loaded by ours, and ours by PyTorch's.
    own, one = fresh(name, peers)
    others, other = fresh(name, params, make=theirs)
    one.load_state_dict(peer.state_dict())
    other.load_state_dict(deepcopy(opt.state_dict()))  # of which PyTorch's makes no copy
    assert one.param_groups[0]["lr"] == other.param_groups[0]["lr"] == 0.1
    for seed in range(3, 6):
        step((params, opt), (peers, peer), (own, one), (others, other), seed=seed)
    for other_params in (peers, own, others):
        torch.testing.assert_close(params, other_params, rtol=1e-4, atol=1e-6)
    counts = [[int(entry.get("step", 6)) for entry in each.state.values()] for each in (opt, peer, one, other)]
    assert counts == [[6, 6]] * 4


@pytest.mark.parametrize("name", DENSE)
def test_what_older_versions_of_pytorch_saved(name: str) -> None:
    peers, peer = fresh(name, make=theirs, lr=0.1, **RICH.get(name, {}))
    train(peers, peer, range(3))
    saved = deepcopy(peer.state_dict())
    own, opt = fresh(name, peers)
    other_params, other = fresh(name, peers)
    other.load_state_dict(saved)
    for key in ("maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"):
        saved["param_groups"][0].pop(key, None)
    for entry in saved["state"].values():
        entry.pop("mu_product", None)
        if "step" in entry:
            entry["step"] = int(entry["step"])
    opt.load_state_dict(saved)
    assert opt.param_groups[0].keys() >= opt.defaults.keys()
    train(own, opt, range(3, 5))
    train(other_params, other, range(3, 5))
    assert same_bits(own, other_params)


@pytest.mark.parametrize("library", ["numpy", "torch", "named"])
@pytest.mark.parametrize("name", DENSE)
def test_what_the_packages_own_optimizers_saved(name: str, library: str) -> None:
    settings = {"lr": 0.1, **RICH.get(name, {}), "ema_decay": 0.5}
    others = [p.detach() for p in parameters()]
    arrays: Any = [p.numpy() for p in others] if library == "numpy" else others
    other = core(name, {"b": arrays[0], "a": arrays[1]} if library == "named" else arrays, **settings)

    def step(seed: int) -> None:
        set_gradients(params, seed)
        grads: Any = [p.grad.numpy() if library == "numpy" else p.grad for p in params]
        other.step({"b": grads[0], "a": grads[1]} if library == "named" else grads)

    params = parameters()
    for seed in range(3):
        step(seed)
    own, opt = fresh(name, others, ema_decay=0.5)
    opt.load_state_dict(other.state_dict())
    for seed in range(3, 6):
        step(seed)
    train(own, opt, range(3, 6))
    assert same_bits(own, others)
    average = [torch.as_tensor(entry["average"]) for entry in other.state_dict()["state"].values()]
    assert same_bits([opt.state[p]["average"] for p in own], average)
    assert [int(opt.state[p]["step"]) for p in own] == [6, 6]


def test_by_name_in_another_order() -> None:
    params = parameters()
    opt = ours("Adam", [("a", params[0]), ("b", params[1])], lr=0.1)
    train(params, opt, range(3))
    saved = opt.state_dict()
    by_name = {
        "state": {"ab"[key]: entry for key, entry in saved["state"].items()},
        "param_groups": [{**saved["param_groups"][0], "params": ["a", "b"]}],
    }
    del by_name["param_groups"][0]["param_names"]
    train(params, opt, [])
    for state_dict in (saved, by_name):
        own = [torch.nn.Parameter(p.detach().clone()) for p in params]
        other = ours("Adam", [("b", own[1]), ("a", own[0])])
        other.load_state_dict(state_dict)
        assert other.param_groups[0]["param_names"] == ["b", "a"]
        assert [p is q for p, q in zip(other.param_groups[0]["params"], own[::-1], strict=True)] == [True, True]
        assert other.state[own[0]]["exp_avg"].shape == (3, 4)
        back = ours("Adam", [("a", own[0]), ("b", own[1])])
        back.load_state_dict(other.state_dict())
        assert dict(enumerate(state_bits(back).values())) == state_bits(opt)
    with pytest.raises(ValueError, match=r"has parameters \['a', 'b'\]: the optimizer's are \['a', 'c'\]"):
        ours("Adam", [("a", params[0]), ("c", params[1])]).load_state_dict(by_name)
    # Without names of its own it goes by place, whatever the keys are.
    own, other = fresh(like=params)
    other.load_state_dict(by_name)
    assert state_bits(other) == state_bits(opt)


def test_what_a_distributed_checkpoint_gives() -> None:
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    def model() -> Any:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))

    one, other = model(), model()
    opt, fresh_one = ours("AdamW", one.parameters(), lr=0.1), ours("AdamW", other.parameters())
    train(list(one.parameters()), opt, range(3))
    saved = get_optimizer_state_dict(one, opt)
    assert sorted(saved["state"]) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    other.load_state_dict(one.state_dict())
    set_optimizer_state_dict(other, fresh_one, deepcopy(saved))
    third = model()
    third.load_state_dict(one.state_dict())
    named = ours("AdamW", third.named_parameters())
    named.load_state_dict(saved)
    for each, optimizer in ((one, opt), (other, fresh_one), (third, named)):
        train(list(each.parameters()), optimizer, range(3, 6))
        assert same_bits(each.parameters(), one.parameters())
    assert state_bits(named) == state_bits(fresh_one) == state_bits(opt)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_of_16_bit_parameters_stay_float32(dtype: Any) -> None:
    params = parameters(dtype=dtype)
    opt = ours("Adam", params, lr=0.1)
    train(params, opt, range(3))
    own, other = fresh(like=params)
    other.load_state_dict(opt.state_dict())
    assert state_bits(other) == state_bits(opt)
    assert {value.dtype for value in other.state[own[0]].values()} == {torch.float32}
    # Weights that are loaded later than the state are what the master weights hold.
    train(params, opt, range(3, 6))
    train(own, other, range(3, 6))
    assert same_bits(own, params)


@pytest.mark.parametrize(
    "step",
    [
        3,
        3.0,
        np.int64(3),
        torch.tensor(3),
        torch.tensor(3.0),
        torch.tensor([3.0]),
        torch.tensor(3.0, dtype=torch.float64),
        torch.tensor(3, dtype=torch.int16),
        np.array([3.0]),
    ],
    ids=repr,
)
def test_kinds_of_step_counts(step: Any) -> None:
    params, opt = trained()
    saved = deepcopy(opt.state_dict())
    own, other = fresh(like=params)
    for entry in saved["state"].values():
        entry["step"] = step
    other.load_state_dict(saved)
    assert (other.state[own[0]]["step"].dtype, other.state[own[0]]["step"].shape) == (torch.float32, ())
    train(params, opt, [3])
    train(own, other, [3])
    assert state_bits(other) == state_bits(opt)


@counted
def test_counts_that_float32_does_not_hold(options: dict[str, Any]) -> None:
    params, opt = trained(**options)
    saved = deepcopy(opt.state_dict())
    saved["state"][0]["step"] = torch.tensor(2.0**24 + 3, dtype=torch.float64)
    saved["state"][1]["step"] = torch.tensor(2.0**24 - 1)
    opt.load_state_dict(saved)
    for made in range(1, 4):
        train(params, opt, [made])
        counts = [2**24 + 3 + made, 2**24 - 1 + made]
        assert [int(opt.state[p]["step"]) for p in params] == counts
        assert [int(entry["step"]) for entry in opt.state_dict()["state"].values()] == counts
    torch.nn.ParameterList(params).double()
    train(params, opt, [3])
    assert [int(opt.state[p]["step"]) for p in params] == [2**24 + 7, 2**24 + 3]
    opt.state[params[0]]["step"].fill_(2.0**24 + 101)
    opt.step()
    assert [int(opt.state[p]["step"]) for p in params] == [2**24 + 102, 2**24 + 4]


def test_empty_entries_and_entries_of_nobody() -> None:
    params, opt = trained()
    saved = deepcopy(opt.state_dict())
    saved["state"][0] = {}
    saved["state"]["of nobody"] = {"x": torch.ones(2)}
    own, other = fresh(like=params)
    other.load_state_dict(saved)
    train(own, other, [3])
    assert [int(other.state[p]["step"]) for p in own] == [1, 4]
    assert torch.equal(other.state["of nobody"]["x"], torch.ones(2))
    assert "steps_skipped" not in other.state_dict()
    del saved["state"][0]
    other.load_state_dict({**saved, "steps_skipped": 4})
    assert other.steps_skipped == 4
    train(own, other, [4])
    assert [int(other.state[p]["step"]) for p in own] == [1, 4]


def test_a_schedule_of_sgd_goes_on() -> None:
    def rate(t: int) -> float:
        return 1.0 / t

    params, opt = fresh("SGD", lr=rate)
    train(params, opt, range(3))
    own, other = fresh("SGD", params, lr=rate)
    other.load_state_dict(opt.state_dict())
    train(params, opt, range(3, 5))
    train(own, other, range(3, 5))
    assert same_bits(own, params)
    torch.nn.ParameterList(params).double()
    torch.nn.ParameterList(own).double()
    train(params, opt, [5])
    assert int(opt.state[params[0]]["step"]) == 6


def test_hooks_see_what_is_saved_and_loaded() -> None:
    params, opt = trained()
    seen: list[str] = []
    opt.register_state_dict_pre_hook(lambda one: seen.append("before saving"))
    opt.register_state_dict_post_hook(lambda one, saved: {**saved, "version": 7})
    opt.register_load_state_dict_pre_hook(lambda one, saved: {key: saved[key] for key in ("state", "param_groups")})
    opt.register_load_state_dict_post_hook(lambda one: seen.append(f"loaded {one is opt}"))
    saved = opt.state_dict()
    assert saved["version"] == 7
    opt.load_state_dict(saved)
    assert seen == ["before saving", "loaded True"]
    assert saved.keys() == {"state", "param_groups", "version"}
    twins, twin = trained(steps=4)
    train(params, opt, [3])
    assert same_bits(params, twins)
    assert int(twin.state[twins[0]]["step"]) == 4
