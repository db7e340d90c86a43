"""Which entry of a state dict a parameter gets: by its name, by its place, or none."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.state.snapshots import unchanged
from tests.support.reference import assert_same_bits
from tests.support.rule_cases import SETTINGS, parameters
from tests.support.shipped import OPTIMIZERS

# ---- By name ----------------------------------------------------------------------------------------------------------------------


def named(order: list[list[str]], lrs: list[float], seed: int = 0, name: str = "GpuAdam", **settings: Any) -> Any:
    """An optimizer with parameters of equal shapes, told apart by their names alone, that has made a step."""
    sums = {name: sum(map(ord, name)) for group in order for name in group}
    groups = [
        {"params": [(name, np.full(2, sums[name], np.float32)) for name in group], "lr": lr}
        for group, lr in zip(order, lrs, strict=True)
    ]
    optimizer = OPTIMIZERS[name](groups, **settings)
    optimizer.step([[np.full(2, sums[name] + seed, np.float32) for name in group] for group in order])
    return optimizer


def by_name(optimizer: Any) -> dict[str, Any]:
    names = [name for structure in optimizer._groups.structures for name in structure.names]
    state = optimizer.state_dict()["state"]
    return {name: state.get(k) for k, name in enumerate(names)}


def with_names(saved: dict[str, Any]) -> dict[str, Any]:
    """As torch.distributed.checkpoint's get_optimizer_state_dict makes it."""
    names = {
        k: n for group in saved["param_groups"] for k, n in zip(group["params"], group["param_names"], strict=True)
    }
    groups = [{key: value for key, value in group.items() if key != "param_names"} for group in saved["param_groups"]]
    for group in groups:
        group["params"] = [names[k] for k in group["params"]]
    return {"state": {names[k]: entry for k, entry in saved["state"].items()}, "param_groups": groups}


@pytest.mark.parametrize("form", ["names as params", "param_names"])
@pytest.mark.parametrize("seed", range(6))
def test_a_named_state_goes_to_its_names(seed: int, form: str) -> None:
    rng = random.Random(seed)
    name, settings = rng.choice([(name, one) for name, table in SETTINGS.items() for one in table.values()])
    settings = {key: value for key, value in settings.items() if key != "lr"}
    order, lrs = [["q", "k", "v"], ["out"], ["a.b", "c"]], [0.5, 0.25, 0.125]
    source = named(order, lrs, name=name, **settings)
    saved = source.state_dict()
    if form == "names as params":
        saved = with_names(saved)
    numbers = rng.sample(range(3), 3)
    shuffled = [rng.sample(order[k], len(order[k])) for k in numbers]
    target = named(shuffled, [1.0, 1.0, 1.0], seed=5, name=name, **settings)
    target.load_state_dict(saved)
    mine, theirs = by_name(target), by_name(source)
    assert mine.keys() == theirs.keys()
    for key in mine:
        for one, value in mine[key].items():
            assert np.array_equal(value, theirs[key][one]), (key, one)
    assert [group["lr"] for group in target.param_groups] == [lrs[k] for k in numbers]


def saved_as(params: list[Any], names: list[Any] | None = None, state: dict[Any, Any] | None = None) -> dict[str, Any]:
    group = GpuAdam([np.zeros(1)]).state_dict()["param_groups"][0]
    return {
        "state": state or {},
        "param_groups": [{**group, "params": params, **({} if names is None else {"param_names": names})}],
    }


NAMED_MISFITS = {
    "a wrapper's prefix": (saved_as(["module.q", "module.k"]), r"\['module.q', 'module.k'\] are unknown here"),
    "a compiler's prefix": (
        saved_as([0, 1], ["_orig_mod.q", "_orig_mod.k"]),
        r"names \['_orig_mod.q', '_orig_mod.k'\]",
    ),
    "one other": (saved_as(["q", "v"]), r"\['v'\] are unknown here, \['k'\] are missing"),
    "one twice": (saved_as(["q", "q"]), r"names \['q', 'q'\]"),
    "one twice in param_names": (saved_as([0, 1], ["q", "q"]), r"names \['q', 'q'\]"),
    "numbers and names": (saved_as(["q", 1]), "all numbers or all names"),
    "flags": (saved_as([True, False]), "all numbers or all names"),
    "too few names": (saved_as([0, 1], ["q"]), r"names \['q'\]"),
    "names of another kind": (saved_as([0, 1], [["q"], ["k"]]), "must be a list of names"),
    "states by number": (saved_as(["q", "k"], state={0: {}}), r"states of parameters \[0\]"),
    "states by name": (saved_as([0, 1], ["q", "k"], {"q": {}}), r"states of parameters \['q'\]"),
}


@pytest.mark.parametrize(("saved", "message"), NAMED_MISFITS.values(), ids=NAMED_MISFITS)
def test_names_that_do_not_fit_are_refused_and_listed(saved: dict[str, Any], message: str) -> None:
    optimizer = named([["q", "k"]], [0.5])
    unchanged(optimizer, lambda: optimizer.load_state_dict(saved), ValueError, message)


def test_names_need_an_optimizer_with_names() -> None:
    optimizer = GpuAdam([np.zeros(2, np.float32), np.ones(2, np.float32)])
    saved = with_names(named([["q", "k"]], [0.5]).state_dict())
    unchanged(optimizer, lambda: optimizer.load_state_dict(saved), ValueError, r"make it of model.named_parameters\(\)")


def test_a_thousand_names_are_not_all_printed() -> None:
    names = [f"layer.{k}" for k in range(1000)]
    optimizer = GpuAdam([(name, np.zeros(1, np.float32)) for name in names])
    with pytest.raises(ValueError, match="and 992 more") as caught:
        optimizer.load_state_dict(saved_as([f"module.{name}" for name in names]))
    assert len(str(caught.value)) < 1200


def test_a_flattened_state_is_refused_with_its_remedy() -> None:
    optimizer = named([["q"]], [0.5])
    flat = {"state.q.exp_avg": np.ones(2), "param_groups.q.lr": 0.5}
    unchanged(optimizer, lambda: optimizer.load_state_dict(flat), TypeError, "flatten_optimizer_state_dict")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["Adam", "SGD", "Adagrad"])
def test_the_state_dicts_of_distributed_checkpoints(name: str) -> None:
    torch = pytest.importorskip("torch")
    of = pytest.importorskip("torch.distributed.checkpoint.state_dict")

    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, names: str) -> None:
            super().__init__()
            for one in names:
                self.register_parameter(one, torch.nn.Parameter(torch.full((3,), float(ord(one)))))

    extra = {"momentum": 0.9} if name == "SGD" else {}
    model, other = Model("qk"), Model("kq")
    theirs = getattr(torch.optim, name)(model.parameters(), lr=np.float64(0.25), **extra)
    for p in model.parameters():
        p.grad = p.detach().clone()
    theirs.step()
    ours = OPTIMIZERS["Gpu" + {"SGD": "Sgd", "Adagrad": "AdaGrad"}.get(name, name)](other.named_parameters(), **extra)
    ours.load_state_dict(of.get_optimizer_state_dict(model, theirs))
    assert ours.param_groups[0]["lr"] == 0.25
    found = by_name(ours)
    for key, p in model.named_parameters():
        for one, value in theirs.state[p].items():
            if one != "step":
                assert torch.equal(found[key][one], value), (key, one)
    options = of.StateDictOptions(flatten_optimizer_state_dict=True)
    if name != "SGD":
        with pytest.raises(TypeError, match="flatten_optimizer_state_dict"):
            ours.load_state_dict(of.get_optimizer_state_dict(model, theirs, options=options))


# ---- No state ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [{}, None, {"step": 0}, {"step": 0.0}, {"step": np.zeros(1)}])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_empty_entry_is_no_state(name: str, entry: Any) -> None:
    params = parameters((5, 5))
    optimizer, fresh = OPTIMIZERS[name]([p.copy() for p in params]), OPTIMIZERS[name]([p.copy() for p in params])
    saved = optimizer.state_dict()
    for one in (optimizer, fresh):
        one.step([np.ones(5), None])
    saved["state"] = {0: entry, 1: entry}
    optimizer.load_state_dict(saved)
    assert not optimizer.state_dict()["state"]
    twin = OPTIMIZERS[name]([np.array(p) for p in optimizer.params])
    for one in (optimizer, twin):
        one.step([np.ones(5), np.full(5, 2.0)])
    for p, q in zip(optimizer.params, twin.params, strict=True):
        assert_same_bits(p, q)


def test_parameters_that_were_moved_to_other_groups_are_told_of() -> None:
    groups = [{"params": {"a": np.zeros(2), "b": np.zeros(2)}}, {"params": {"c": np.zeros(2)}}]
    optimizer = GpuAdam(groups)
    first, second = optimizer.param_groups
    first["params"], second["params"] = [second["params"][0], first["params"][1]], [first["params"][0]]
    optimizer.step({"a": np.ones(2), "b": np.ones(2), "c": np.ones(2)})
    other = GpuAdam([{"params": {"a": np.zeros(2), "b": np.zeros(2)}}, {"params": {"c": np.zeros(2)}}])
    with pytest.raises(ValueError, match=r"\['c'\] are in other groups here: group the parameters as they were"):
        other.load_state_dict(optimizer.state_dict())
