"""What becomes of edits in ``param_groups``: they are followed where their meaning is clear, and else refused by an error."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpu_adam
from gpu_adam import GpuAdam, GpuSgd
from tests.support.rule_cases import OPTIMIZERS
from tests.support.shipped import CLASSES

LIBRARIES = ["numpy", "torch"]


def arrays(library: str, count: int, seed: int = 0, size: int = 3) -> list[Any]:
    rng = np.random.default_rng(seed)
    made = [rng.standard_normal(size + k if size > 1 else size).astype(np.float32) for k in range(count)]
    if library == "numpy":
        return made
    torch = pytest.importorskip("torch")
    return [torch.nn.Parameter(torch.from_numpy(one)) for one in made]


def values(params: Any) -> list[bytes]:
    return [np.asarray(p.detach() if hasattr(p, "detach") else p).tobytes() for p in params]


def like(p: Any, seed: int) -> Any:
    g = np.random.default_rng(seed).standard_normal(tuple(p.shape)).astype(np.float32)
    return g if isinstance(p, np.ndarray) else pytest.importorskip("torch").from_numpy(g)


def leaves(optimizer: Any) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_keeps_its_state_and_takes_the_settings_of_the_group_that_it_is_moved_to(
    name: str, library: str, pack: bool
) -> None:
    settings = [{"lr": 0.1}, {"lr": 0.01, "weight_decay": 0.1}, {"lr": 0.0}]
    for seed in range(4):
        mine, alone = arrays(library, 6), arrays(library, 6)
        parts = [slice(0, 3), slice(3, 4), slice(4, 6)]
        groups = [{"params": mine[part], **setting} for part, setting in zip(parts, settings, strict=True)]
        optimizer = OPTIMIZERS[name](groups, pack=pack)
        singles = {k: OPTIMIZERS[name]([p]) for k, p in enumerate(alone)}
        number = {id(p): k for k, p in enumerate(leaves(optimizer))}
        shuffled = random.Random(seed)
        for t in range(4):
            if t:
                everybody = leaves(optimizer)
                shuffled.shuffle(everybody)
                cuts = sorted(shuffled.randrange(7) for _ in range(2))
                optimizer.param_groups[0]["params"] = everybody[: cuts[0]]
                optimizer.param_groups[1]["params"][:] = everybody[cuts[0] : cuts[1]]
                optimizer.param_groups[2]["params"] = tuple(everybody[cuts[1] :])
                shuffled.shuffle(optimizer.param_groups)
            gradients = {id(p): like(p, 10 * t + number[id(p)]) for p in leaves(optimizer)}
            optimizer.step([[gradients[id(p)] for p in group["params"]] for group in optimizer.param_groups])
            for group in optimizer.param_groups:
                for p in group["params"]:
                    single = singles[number[id(p)]]
                    single.param_groups[0].update({key: value for key, value in group.items() if key != "params"})
                    single.step([gradients[id(p)]])
        ours = sorted(leaves(optimizer), key=lambda p: number[id(p)])
        assert values(ours) == values(single.params[0] for single in singles.values())
        twin = copy.deepcopy(optimizer)
        assert values(leaves(twin)) == values(leaves(optimizer))
        again = type(optimizer)([{"params": group["params"]} for group in copy.deepcopy(optimizer.param_groups)])
        again.load_state_dict(optimizer.state_dict())
        for one in (twin, again):
            one.step([[like(p, 99) for p in group["params"]] for group in one.param_groups])
        optimizer.step([[like(p, 99) for p in group["params"]] for group in optimizer.param_groups])
        assert values(leaves(twin)) == values(leaves(again)) == values(leaves(optimizer))


@pytest.mark.parametrize("library", LIBRARIES)
def test_names_go_with_their_parameters(library: str) -> None:
    p, q, r = arrays(library, 3)
    optimizer = GpuSgd([{"params": {"p": p, "q": q}, "lr": 0.0}, {"params": {"r": r}, "lr": 1.0}])
    optimizer.param_groups[0]["params"], optimizer.param_groups[1]["params"] = [r, p], [q]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["r", "p"]
    before = values([p, q, r])
    optimizer.step({"p": like(p, 0), "q": like(q, 1), "r": like(r, 2)})
    after = values([p, q, r])
    assert [x == y for x, y in zip(before, after, strict=True)] == [True, False, True]
    with pytest.raises(ValueError, match=r"the gradient of parameter 'r' has shape \(9,\)"):
        optimizer.step({"p": like(p, 0), "q": like(q, 1), "r": like(np.zeros(9), 2)})


EDITS: dict[str, tuple[Callable[[Any, Callable[[], Any]], Any], str]] = {
    "appended": (lambda groups, new: groups[0]["params"].append(new()), "use add_param_group"),
    "inserted": (lambda groups, new: groups[0]["params"].insert(0, new()), "use add_param_group"),
    "extended": (lambda groups, new: groups.extend([{"params": [new()], "lr": 0.1}]), "use add_param_group"),
    "another group": (lambda groups, new: groups.append(dict(groups[0], params=[new()])), "use add_param_group"),
    "taken away": (lambda groups, new: groups[0]["params"].pop(), "give it no gradient"),
    "group taken away": (lambda groups, new: groups.pop(), "give it no gradient"),
    "twice": (lambda groups, new: groups[0]["params"].__setitem__(0, groups[0]["params"][1]), "a parameter twice"),
    "replaced": (lambda groups, new: groups[0]["params"].__setitem__(1, new()), "has another array in the place of"),
    "all replaced": (lambda groups, new: groups[0].update(params=[new(), new()]), "has another array in the place of"),
    "lost": (lambda groups, new: groups[0].pop("params"), "a dict with a list of arrays as 'params'"),
    "no group": (lambda groups, new: groups.__setitem__(0, None), "a dict with a list of arrays as 'params'"),
    "no list": (lambda groups, new: groups[0].update(params=None), "a dict with a list of arrays as 'params'"),
}


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("edit", EDITS)
def test_other_parameters_are_refused_and_nothing_has_changed(edit: str, library: str, pack: bool, size: int) -> None:
    change, message = EDITS[edit]
    # Of one element and equal, so that only their identity tells them apart.
    params = [p for _ in range(2) for p in arrays(library, 1, 0, size)]
    other = arrays(library, 1, 1, size)
    optimizer = GpuAdam([{"params": params}, {"params": other}], pack=pack)
    optimizer.step([[like(p, 0) for p in params], [like(other[0], 0)]])
    saved, everybody = optimizer.state_dict(), leaves(optimizer)
    before = values(everybody)
    groups = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]

    def equal_array() -> Any:
        return copy.deepcopy(everybody[1])

    change(optimizer.param_groups, equal_array)
    for call in (optimizer.step, lambda: optimizer.plan, lambda: pickle.dumps(optimizer)):
        with pytest.raises(ValueError, match=message):
            call()
    if edit in ("replaced", "all replaced"):
        # The remedy is a new optimizer, which wants the state of the old arrays.
        had = optimizer.state_dict()["state"]
        assert all(values([state["exp_avg"]]) == values([had[k]["exp_avg"]]) for k, state in saved["state"].items())
    else:
        with pytest.raises(ValueError, match=message):
            optimizer.state_dict()
    assert values(everybody) == before
    optimizer.param_groups[:] = groups
    now = optimizer.state_dict()
    assert [int(state["step"]) for state in now["state"].values()] == [1, 1, 1]
    for k, state in saved["state"].items():
        assert values([state["exp_avg"]]) == values([now["state"][k]["exp_avg"]])
    optimizer.step([[like(p, 1) for p in params], [like(other[0], 1)]])


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_arrays_that_take_the_place_of_others_before_the_first_step_are_trained(library: str, pack: bool) -> None:
    optimizer, twin = GpuAdam(arrays(library, 3), pack=pack), GpuAdam(arrays(library, 3, 7))
    optimizer.param_groups[0]["params"] = arrays(library, 3, 7)
    for t in range(3):
        optimizer.step([like(p, t) for p in leaves(optimizer)])
        twin.step([like(p, t) for p in leaves(twin)])
    assert values(leaves(optimizer)) == values(leaves(twin))


def test_a_copy_of_an_edited_optimizer_trains_the_arrays_that_it_shows() -> None:
    for clone in (copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):
        p, q = arrays("numpy", 1)[0], arrays("numpy", 1, 5)[0]
        optimizer = GpuAdam([p])
        optimizer.param_groups[0]["params"] = [q]
        other = clone(optimizer)
        other.step([like(q, 0)])
        optimizer.step([like(q, 0)])
        assert values(leaves(other)) == values([q])
        assert values([p]) == values(arrays("numpy", 1))


# Keys.


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_key_that_looks_like_a_setting_is_an_error_wherever_it_comes_from(name: str) -> None:
    from gpu_adam.rules.keys import HYPERPARAMETERS

    own = OPTIMIZERS[name].algorithm.keys
    assert set(own) <= HYPERPARAMETERS
    typos = {
        "learning_rate",
        "lerning_rate",
        "lrate",
        "max_grad_norm",
        "ema_decay",
        "pack",
        "parms",
        "skip_nonfinite",
        "LR",
        "lrr",
        "weigth_decay",
        "weightdecay",
        "wd",
        "Weight_Decay",
        *HYPERPARAMETERS,
    } - set(own)
    for key in sorted(typos):
        p = np.ones(2, np.float32)
        with pytest.raises(ValueError, match=rf"group 0 has unknown keys \['{key}'\]"):
            OPTIMIZERS[name]([{"params": [p], key: 0.5}])
        optimizer = OPTIMIZERS[name]([p])
        optimizer.step([p])
        before = p.tobytes()
        optimizer.param_groups[0][key] = 0.5
        with pytest.raises(ValueError, match=rf"group 0 has unknown keys \['{key}'\]"):
            optimizer.step([p])
        assert p.tobytes() == before


def test_keys_of_users_schedulers_and_trainers_stay() -> None:
    theirs = {"initial_lr": 0.1, "lr_scale": 0.5, "name": "encoder", "tag": object(), "_lr": 3, "max_lr": 1, "layer": 4}
    optimizer = GpuAdam([{"params": [np.ones(2)], **theirs}])
    optimizer.step([np.ones(2)])
    optimizer.param_groups[0]["swa_lr"] = 0.5
    optimizer.step([np.ones(2)])
    group = optimizer.state_dict()["param_groups"][0]
    assert theirs.keys() | {"swa_lr"} <= group.keys()


# What is refused at the door.


def test_what_would_never_be_trained_is_refused() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    used = model.parameters()
    GpuAdam(used)
    leaf = torch.ones(3, requires_grad=True)
    refused: list[tuple[Any, str]] = [
        (used, "params of group 0 is a generator with nothing left in it"),
        ([{"params": used}], "params of group 0 is a generator with nothing left in it"),
        (filter(None, []), "a filter with nothing left in it"),
        ([], "params is empty"),
        (model.state_dict(), r"a module's state_dict\(\): pass model.named_parameters"),
        ([{"params": model.state_dict()}], r"a module's state_dict\(\)"),
        ([leaf * 2], "parameter 0 of group 0 is not a leaf of autograd's graph"),
        ({"w": model.weight.half()}, "parameter 'w' is not a leaf"),
        ([leaf.view(3)], "not a leaf"),
    ]
    for params, message in refused:
        with pytest.raises(ValueError, match=message):
            GpuAdam(params)
    retained = leaf * 2
    retained.retain_grad()
    GpuAdam([retained])
    GpuAdam([leaf.detach()])
    with torch.no_grad():
        GpuAdam([leaf * 2])


def test_tensors_that_share_memory_with_the_models_and_get_no_gradient_are_told_of_at_the_step() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    for params in (
        list(model.state_dict().values()),
        [p.detach() for p in model.parameters()],
        [p.data for p in model.parameters()],
    ):
        optimizer = GpuAdam(params)
        model(torch.ones(3)).sum().backward()
        with pytest.raises(ValueError, match=r"no parameter requires one: pass model.parameters\(\)"):
            optimizer.step()


# Clearing gradients.


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("set_to_none", [False, True])
def test_sparse_gradients_do_not_add_up_over_steps(pack: bool, set_to_none: bool) -> None:
    torch = pytest.importorskip("torch")
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    torch.nn.init.zeros_(embedding.weight)
    optimizer = GpuSgd(embedding.parameters(), lr=1.0, pack=pack)
    for _ in range(2):
        optimizer.zero_grad(set_to_none)
        embedding(torch.tensor([1, 1, 3])).sum().backward()
        optimizer.step()
    assert embedding.weight.detach()[:, 0].tolist() == [0.0, -4.0, 0.0, -2.0, 0.0]


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
def test_a_gradients_own_graph_is_let_go(pack: bool) -> None:
    torch = pytest.importorskip("torch")
    import gc
    import weakref

    p = torch.nn.Parameter(torch.ones(3))
    optimizer = GpuSgd([p], lr=0.1, pack=pack)
    for view in (False, True):
        x = torch.ones(3)
        alive = weakref.ref(x)
        (gradient,) = torch.autograd.grad((p**3 * x).sum(), p, create_graph=True)
        p.grad = gradient.view(3) if view else gradient
        assert p.grad.requires_grad
        del gradient, x
        optimizer.zero_grad(set_to_none=False)
        gc.collect()
        assert alive() is None
        assert not p.grad.requires_grad
        assert not p.grad.any()


def test_every_optimizer_is_tried_here() -> None:
    shipped = {name for name in gpu_adam.__all__ if name.startswith("Gpu") and name != "GpuOptimizer"}
    assert {one.__name__ for one in CLASSES.values()} == shipped
    assert shipped - set(OPTIMIZERS) == {"GpuAdamW"}  # which is GpuAdam


@pytest.mark.parametrize("given", [None, 3, {"params": []}, iter(())], ids=["None", "int", "dict", "iterator"])
def test_groups_that_are_no_list(given: Any) -> None:
    w = np.ones(3, np.float32)
    optimizer = GpuAdam([w])
    groups = optimizer.param_groups
    optimizer.param_groups = given
    for call in (lambda: optimizer.step([w.copy()]), optimizer.state_dict, lambda: optimizer.plan):
        with pytest.raises(ValueError, match=r"param_groups is an? .*: must be a list of dicts, as it was"):
            call()
    optimizer.param_groups = groups
    optimizer.step([w.copy()])
    assert (w < 1).all()
