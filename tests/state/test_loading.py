"""Weights that are loaded before the optimizer's state, after it, or without it: nothing of them is lost."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.libraries import Array, dense, host, write
from tests.support.library_cases import Case
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.strategies import values

SIZE = 60
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "capturable": {"capturable": True},
    "clipped": {"max_grad_norm": 1e30},
    "averaged": {"ema_decay": 0.9},
}


def weights(name: str) -> Array:
    """Numbers that a step changes, and some that it need not."""
    numbers = values(DTYPES[name], SIZE, 3, special=0.0)
    numbers[:6] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0]
    return numbers


def gradient(name: str, seed: int) -> Array:
    g = np.random.default_rng(seed).standard_normal(SIZE).astype(DTYPES[name])
    g[:5] = 0.0
    return g


class Model:
    """One 16-bit parameter of any library, its optimizer, and a way to write to it that nobody tells the optimizer of."""

    def __init__(self, case: Case, numbers: Array, pack: bool, **options: Any) -> None:
        self.case, self.name = case, numbers.dtype.name
        self.memory = case.library.memory(np.concatenate((numbers, np.zeros(7, numbers.dtype))))
        self.param = case.library.view(self.memory, numbers.dtype, dense(SIZE))
        self.optimizer = GpuAdam([self.param], engine=case.engine, pack=pack, lr=0.01, **options)
        self.pack = pack

    def load(self, numbers: Array) -> None:
        padded = self.case.library.memory(np.concatenate((numbers, np.zeros(7, numbers.dtype))))
        if self.pack:
            target = self.optimizer.params[0]
            write(target.data if hasattr(target, "detach") else target, padded[:SIZE])
        else:
            write(self.memory, padded)

    def step(self, seed: int) -> None:
        g = np.concatenate((gradient(self.name, seed), np.zeros(7, DTYPES[self.name])))
        self.optimizer.step([self.case.array(g, dense(SIZE))])

    def now(self) -> Array:
        if self.pack:
            return host(self.optimizer.params[0])
        return host(self.memory, DTYPES[self.name])[:SIZE]


def trained(name: str, **options: Any) -> tuple[Array, dict[str, Any]]:
    """Weights after some steps, and the optimizer's state."""
    p = weights(name)
    optimizer = GpuAdam([p], lr=0.01, **options)
    for seed in range(3):
        optimizer.step([gradient(name, seed)])
    return p, optimizer.state_dict()


def loaded_weights(name: str, saved: Array) -> dict[str, Array]:
    """What may be loaded beside a state that was saved with ``saved``."""
    some = saved.copy()
    some[::7] = values(DTYPES[name], len(some[::7]), 9)
    signs = saved.copy()
    signs[:2] = signs[1::-1]
    return {"saved": saved.copy(), "some others": some, "all others": values(DTYPES[name], SIZE, 10), "signs": signs}


def expected(name: str, now: Array, state: dict[str, Any], **options: Any) -> GpuAdam:
    """The optimizer in memory of its own that has the weights first, and master weights that are theirs."""
    words, wanted = f"u{now.dtype.itemsize}", copy.deepcopy(state)
    with np.errstate(all="ignore"):
        rounded = wanted["state"][0]["master"].astype(now.dtype)
        same = (rounded.view(words) == now.view(words)) | (np.isnan(rounded) & np.isnan(now))
        wanted["state"][0]["master"] = np.where(same, wanted["state"][0]["master"], now.astype(np.float32))
    optimizer = GpuAdam([now.copy()], lr=0.01, **options)
    optimizer.load_state_dict(wanted)
    return optimizer


@pytest.mark.parametrize("kind", ["saved", "some others", "all others", "signs"])
@pytest.mark.parametrize("order", ["weights first", "state first", "both and state again"])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_the_weights_that_were_loaded_are_what_is_trained(case: Case, name: str, order: str, kind: str) -> None:
    if name not in case.library.formats:
        pytest.skip("the library has no such format")
    for pack, (_, options) in itertools.product([False, True][: 1 + case.library.packs], OPTIONS.items()):
        saved, state = trained(name, **options)
        now = loaded_weights(name, saved)[kind]
        model = Model(case, np.ones(SIZE, DTYPES[name]), pack, **options)
        if order == "weights first":
            model.load(now)
            model.optimizer.load_state_dict(state)
        elif order == "state first":
            model.optimizer.load_state_dict(state)
            model.load(now)
        else:
            model.optimizer.load_state_dict(state)
            model.load(saved)
            model.step(8)
            model.optimizer.load_state_dict(state)
            model.load(now)
        assert_same_bits(model.now(), now)
        twin = expected(name, now, state, **options)
        for seed in (4, 5):
            model.step(seed)
            twin.step([gradient(name, seed)])
            assert_same_bits(model.now(), twin.params[0], f"after step {seed}")
        ours, theirs = model.optimizer.state_dict()["state"][0], twin.state_dict()["state"][0]
        for one in ours.keys() - {"step"}:
            assert_same_bits(host(ours[one]), theirs[one], one)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_resume_goes_on_as_if_nothing_had_been(case: Case, name: str) -> None:
    if name not in case.library.formats:
        pytest.skip("the library has no such format")
    saved, state = trained(name)
    going_on = GpuAdam([p := saved.copy()], lr=0.01)
    going_on.load_state_dict(state)
    assert not np.array_equal(state["state"][0]["master"], saved.astype(np.float32), equal_nan=True)
    model = Model(case, np.ones(SIZE, DTYPES[name]), pack=False)
    model.optimizer.load_state_dict(state)
    # Looking at it in between must not compare it with weights that are not loaded yet.
    assert_same_bits(host(model.optimizer.state_dict()["state"][0]["master"]), state["state"][0]["master"])
    model.load(saved)
    for seed in range(4, 8):
        going_on.step([gradient(name, seed)])
        model.step(seed)
        assert_same_bits(model.now(), p)


def test_the_example_of_a_weight_that_was_lost() -> None:
    w = np.ones(2, np.float16)
    optimizer = GpuAdam([w], lr=0.01)
    optimizer.step([w])
    v = np.full(2, 5.0, np.float16)
    fresh = GpuAdam([v])
    fresh.load_state_dict(optimizer.state_dict())
    fresh.param_groups[0]["lr"] = 0.0
    fresh.step([v.copy()])
    assert v.tolist() == [5, 5]


BETWEEN: dict[str, Callable[[GpuAdam], GpuAdam]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "another load": lambda one: one.load_state_dict(one.state_dict()) or one,
    "looked at": lambda one: (repr(one), one.plan, one.params, one.state_dict()) and one,
    "another group": lambda one: one.add_param_group({"params": [np.ones(3, np.float16)]}) or one,
    "no gradient": lambda one: one.step([None] * len(one.params)) or one,
    "a failing step": lambda one: fails(one) or one,
}


def first_of(saved: dict[str, Any]) -> dict[str, Any]:
    return {"state": {0: saved["state"][0]}, "param_groups": [{**saved["param_groups"][0], "params": [0]}]}


def fails(optimizer: GpuAdam) -> None:
    with pytest.raises(ValueError, match="shape"):
        optimizer.step([np.ones(SIZE + 1)])


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
def test_whatever_comes_between_the_state_and_the_weights(pack: bool, between: Callable[[GpuAdam], GpuAdam]) -> None:
    saved, state = trained("float16")
    optimizer = GpuAdam([np.zeros(SIZE, np.float16)], lr=0.01, pack=pack)
    optimizer.load_state_dict(state)
    optimizer = between(optimizer)
    flat = optimizer.params if not optimizer._groups.grouped else optimizer.params[0]
    p = flat[0]
    for now in (saved, loaded_weights("float16", saved)["some others"]):
        p[:] = now
        twin = expected("float16", now, first_of(optimizer.state_dict()) if now is not saved else state)
        grads = [gradient("float16", 4), *[None] * (len(optimizer._params) - 1)]
        optimizer.step(grads)
        twin.step([gradient("float16", 4)])
        assert_same_bits(p, twin.params[0])
        optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("way", ["module", "copy_", "data.copy_", "data =", "numpy"])
@pytest.mark.parametrize("when", ["before", "after", "no state"])
@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_module_whose_weights_are_loaded(name: str, pack: bool, when: str, way: str) -> None:
    torch = pytest.importorskip("torch")
    format = getattr(torch, name)

    def module() -> Any:
        return torch.nn.Linear(4, 3).to(format)

    source, model = module(), module()
    trained = GpuAdam(source.parameters(), lr=0.01, pack=pack)
    for seed in range(3):
        for p in source.parameters():
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)).to(format)
        trained.step()
    weights = {key: value * 2 for key, value in source.state_dict().items()}
    weights["weight"][0] = source.weight[0].detach()
    optimizer = GpuAdam(model.parameters(), lr=0.01, pack=pack)
    if when == "after":
        optimizer.load_state_dict(trained.state_dict())
    for key, p in model.named_parameters():
        with torch.no_grad():
            if way == "copy_":
                p.copy_(weights[key])
            elif way == "data.copy_":
                p.data.copy_(weights[key])
            elif way == "data =":
                p.data = weights[key].clone()
            elif way == "numpy":  # which counts no versions
                words = p.detach().view(torch.int16).numpy()
                words[...] = weights[key].view(torch.int16).numpy()
    if way == "module":
        model.load_state_dict(weights)
    if when == "before":
        optimizer.load_state_dict(trained.state_dict())
    if when != "no state":
        optimizer.param_groups[0]["lr"] = 0.0
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for key, p in model.named_parameters():
        assert torch.equal(p, weights[key])
    if when != "no state":  # what was not changed has kept its lower bits
        master, old = (one.state_dict()["state"][0]["master"] for one in (optimizer, trained))
        assert torch.equal(master[0], old[0])
        assert torch.equal(master[1:], weights["weight"][1:].float())


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
def test_what_is_written_before_the_saved_weights_costs_no_bits(pack: bool) -> None:
    torch = pytest.importorskip("torch")
    saved, state = trained("float16")
    p = torch.zeros(SIZE, dtype=torch.float16)
    optimizer = GpuAdam([p], lr=0.01, pack=pack)
    optimizer.load_state_dict(state)
    p.fill_(3.0)  # as by an initialisation, of which torch tells
    optimizer.state_dict()
    p.data = torch.ones_like(p)
    optimizer.add_param_group({"params": [torch.zeros(1)]})
    p.copy_(torch.from_numpy(saved))
    twin = expected("float16", saved, state)
    optimizer.step([torch.from_numpy(gradient("float16", 4)), None])
    twin.step([gradient("float16", 4)])
    assert_same_bits(p.numpy(), twin.params[0])


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("name", DTYPES)
def test_an_average_that_was_not_saved_begins_with_the_weights(case: Case, name: str, pack: bool) -> None:
    if name not in case.library.formats or (pack and not case.library.packs):
        pytest.skip("the library cannot")
    saved, state = trained(name)
    model = Model(case, np.ones(SIZE, DTYPES[name]), pack, polyak_average=True)
    model.optimizer.load_state_dict(state)
    model.load(saved)
    before = host(model.optimizer.averaged_params[0]) if case.library.packs else None
    model.step(4)
    twin = GpuAdam([saved.copy()], lr=0.01, polyak_average=True)
    twin.load_state_dict(state)
    if before is not None:
        assert_same_bits(before, twin.averaged_params[0])
    twin.step([gradient(name, 4)])
    assert_same_bits(
        host(model.optimizer.state_dict()["state"][0]["average"]), twin.state_dict()["state"][0]["average"]
    )


def test_a_parameter_without_a_gradient_is_looked_at_when_it_has_one() -> None:
    params = [np.ones(3, np.float16), np.ones(3, np.float16)]
    optimizer = GpuAdam(params, lr=0.0)
    optimizer.step([np.ones(3), np.ones(3)])
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step([np.ones(3), None])
    params[1][:] = 7
    optimizer.step([np.ones(3), np.ones(3)])
    assert params[1].tolist() == [7, 7, 7]
    params[0][:] = 7  # long after: arrays cannot tell, and reread_params does
    optimizer.reread_params()
    optimizer.step([np.ones(3), np.ones(3)])
    assert params[0].tolist() == [7, 7, 7]


def test_steps_that_are_captured_come_after_the_weights_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    p = np.ones(3, np.float16)
    optimizer = GpuAdam([p], capturable=True)
    optimizer.step([p])
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer._dispatcher.prepare(optimizer._request([p], None, None, False))  # as graph() does, which launches nothing
    with pytest.raises(RuntimeError, match=r"call step\(\) once before the capture"):
        optimizer._dispatcher.prepare(optimizer._request([p], None, None, True))
    optimizer.step([p])
    optimizer._dispatcher.prepare(optimizer._request([p], None, None, True))
