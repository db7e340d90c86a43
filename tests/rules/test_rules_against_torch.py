"""Every optimizer against PyTorch's of the same name, in float64: the same steps, and states that go from one to the other and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.rule_cases import SETTINGS, STATES, TORCH, Settings, each, gradients, parameters
from tests.support.shipped import OPTIMIZERS

SIZES = (40, 1, 0, 17)
STEPS = 100

TOLERANCE = 1e-11
"""Relative and absolute, to parameters of size about 1: some ten roundings of 1.1e-16 a step, each of which later steps carry on.
RMSProp's centered variance is the difference of two sums, and loses up to two digits of them.
"""


@pytest.fixture
def torch() -> Iterator[Any]:
    """PyTorch, with float64 by default: NAdam counts the product of its momenta in the default format."""
    library = pytest.importorskip("torch", reason="torch is not installed")
    before = library.get_default_dtype()
    library.set_default_dtype(library.float64)
    yield library
    library.set_default_dtype(before)


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@each
def test_it_follows_torchs_optimizer_of_the_same_name(torch: Any, name: str, settings: Settings, pack: bool) -> None:
    starts = [torch.from_numpy(p) for p in parameters(SIZES)]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in starts] for _ in range(2))
    optimizer = OPTIMIZERS[name](ours, pack=pack, **settings)
    # Where torch does not decouple decay, its parameter is shrunk by hand before a step without decay.
    knows = not settings.get("decoupled_weight_decay") or name in ("GpuAdam", "GpuNAdam")
    kept = {} if knows else {"weight_decay": 0.0, "decoupled_weight_decay": False}
    chosen = {key: value for key, value in {**settings, **kept}.items() if value or key != "decoupled_weight_decay"}
    peer = getattr(torch.optim, TORCH[name])(theirs, **chosen)
    for step in gradients(SIZES, STEPS):
        for params in (ours, theirs):
            for p, g in zip(params, step, strict=True):
                p.grad = torch.from_numpy(g.copy())
        optimizer.step()
        if not knows:
            for p in theirs:
                p.data.mul_(1 - optimizer.param_groups[0]["lr"] * settings["weight_decay"])
        peer.step()
    for p, q, start in zip(ours, theirs, starts, strict=True):
        torch.testing.assert_close(p.data, q.data, rtol=TOLERANCE, atol=TOLERANCE)
        assert not start.numel() or not torch.equal(p.data, start)


# ---- States, both ways --------------------------------------------------------------------------------------------------------------


class Pair:
    """The same parameters twice, ours and PyTorch's, and an optimizer for each."""

    def __init__(self, torch: Any, name: str, settings: Settings) -> None:
        self.torch, self.name = torch, name
        self.ours, self.theirs = (
            [torch.nn.Parameter(torch.from_numpy(p)) for p in parameters(SIZES)] for _ in range(2)
        )
        kept = {key: value for key, value in settings.items() if value or key != "decoupled_weight_decay"}
        self.optimizer = OPTIMIZERS[name](self.ours, **settings)
        self.peer = getattr(torch.optim, TORCH[name])(self.theirs, **kept)

    def step(self, seed: int, *which: str) -> None:
        for params, one in ((self.ours, self.optimizer), (self.theirs, self.peer)):
            if which and ("ours" if one is self.optimizer else "theirs") not in which:
                continue
            for p, g in zip(params, gradients(SIZES, 1, seed=seed)[0], strict=True):
                p.grad = self.torch.from_numpy(g)
            one.step()

    def copy_params(self, to: list[Any], source: list[Any]) -> None:
        for p, q in zip(to, source, strict=True):
            p.data.copy_(q.data)

    def compare(self) -> None:
        for p, q in zip(self.ours, self.theirs, strict=True):
            self.torch.testing.assert_close(p.data, q.data, rtol=TOLERANCE, atol=TOLERANCE)


def torch_knows(name: str, settings: Settings) -> bool:
    return not settings.get("decoupled_weight_decay") or name in ("GpuAdam", "GpuNAdam")


@each
def test_a_state_moves_to_torch_and_back(torch: Any, name: str, settings: Settings) -> None:
    if not torch_knows(name, settings):
        settings = {**settings, "decoupled_weight_decay": False}
    pair = Pair(torch, name, settings)
    for seed in range(3):
        pair.step(seed, "ours")
    pair.copy_params(pair.theirs, pair.ours)
    # torch's optimizer is made without the settings: they come with the state.
    pair.peer = getattr(torch.optim, TORCH[name])(pair.theirs)
    pair.peer.load_state_dict(pair.optimizer.state_dict())
    for seed in range(3, 6):
        pair.step(seed)
    pair.compare()
    pair.copy_params(pair.ours, pair.theirs)
    back = pair.optimizer = OPTIMIZERS[name](pair.ours)
    back.load_state_dict(pair.peer.state_dict())
    assert {key: back.param_groups[0][key] for key in settings} == settings
    for seed in range(6, 9):
        pair.step(seed)
    pair.compare()


@each
def test_a_state_of_torchs_before_its_first_step_is_one_without_steps(
    torch: Any, name: str, settings: Settings
) -> None:
    if not torch_knows(name, settings):
        settings = {**settings, "decoupled_weight_decay": False}
    pair = Pair(torch, name, settings)
    pair.optimizer.load_state_dict(pair.peer.state_dict())  # AdaGrad's has its start in it
    assert not pair.optimizer.state_dict()["state"]
    for seed in range(3):
        pair.step(seed)
    pair.compare()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_has_torchs_layout(torch: Any, name: str) -> None:
    for settings in SETTINGS[name].values():
        pair = Pair(torch, name, settings)
        pair.step(0)
        saved, wanted = pair.optimizer.state_dict(), pair.peer.state_dict()
        assert set(wanted["param_groups"][0]) <= set(saved["param_groups"][0])
        for key, state in wanted["state"].items():
            found = saved["state"][key]
            assert set(state) - {"step"} == set(found) - {"step"}, settings
            assert set(found) <= STATES[name] | {"step", "mu_product"}
            for what in set(state) - {"step", "mu_product"}:
                assert (found[what].dtype, found[what].shape) == (state[what].dtype, state[what].shape)


def test_nadams_product_of_momenta_is_torchs(torch: Any) -> None:
    for settings in SETTINGS["GpuNAdam"].values():
        pair = Pair(torch, "GpuNAdam", settings)
        for seed in range(5):
            pair.step(seed)
        ours, theirs = (one.state_dict()["state"][0]["mu_product"] for one in (pair.optimizer, pair.peer))
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=0.0)


def test_a_state_of_torchs_sgd_counts_no_steps_and_is_taken_as_one(torch: Any) -> None:
    settings = SETTINGS["GpuSgd"]["dampened"]
    pair = Pair(torch, "GpuSgd", settings)
    for seed in range(3):
        pair.step(seed, "theirs")
    saved = pair.peer.state_dict()
    assert "step" not in saved["state"][0]
    pair.copy_params(pair.ours, pair.theirs)
    pair.optimizer.load_state_dict(saved)
    assert {int(state["step"]) for state in pair.optimizer.state_dict()["state"].values()} == {1}
    for seed in range(3, 6):
        pair.step(seed)  # dampened, as no first step is
    pair.compare()
