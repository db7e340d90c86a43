"""What becomes of the state when an optimizer is copied, sent or dropped: the copy has its own, the original's stays live."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable
from copy import copy, deepcopy
from typing import Any
from weakref import ref

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from gpu_adam.torch.live_state import _Kept  # noqa: E402
from tests.support.torch_classes import bits, counted, same_bits, state_bits, train, trained  # noqa: E402


def through_a_file(opt: Any) -> Any:
    file = io.BytesIO()
    torch.save(opt, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@counted
@pytest.mark.parametrize("way", [deepcopy, through_a_file])
@pytest.mark.parametrize("name", ["Adam", "SGD", "NAdam"])
def test_a_copy_goes_on_alone(way: Callable[[Any], Any], name: str, options: dict[str, Any]) -> None:
    params, opt = trained(name=name, **options)
    other = way(opt)
    own = other.param_groups[0]["params"]
    assert same_bits(own, params)
    assert other.state[own[0]]["momentum_buffer" if name == "SGD" else "exp_avg"].data_ptr() != 0
    train(params, opt, [3])
    assert not same_bits(own, params)
    train(own, other, [3])
    assert same_bits(own, params)
    assert state_bits(other) == state_bits(opt)
    shown = next(value for key, value in opt.state[params[0]].items() if key != "step")
    before = bits(shown)
    train(params, opt, [4])
    assert bits(shown) != before, "the sender's state is live"
    train(own, other, [4])
    assert same_bits(own, params)


def test_a_copy_from_a_device_that_is_not_here_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    params, opt = trained()
    keep = _Kept.__init__

    def elsewhere(self: Any, tensor: Any) -> None:
        keep(self, tensor)
        self.device = "xpu:7"

    monkeypatch.setattr(_Kept, "__init__", elsewhere)
    other = deepcopy(opt)
    own = other.param_groups[0]["params"]
    train(params, opt, [3])
    train(own, other, [3])
    assert same_bits(own, params)
    assert state_bits(other) == state_bits(opt)


def step_elsewhere(opt: Any) -> list[bytes]:
    own = opt.param_groups[0]["params"]
    train(own, opt, [3])
    return [bits(p) for p in own]


def test_another_process_gets_a_copy_and_the_senders_state_stays_live() -> None:
    params, opt = trained()
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(step_elsewhere, (opt,))
    # Its parameters lie in memory that both processes have.
    assert there == [bits(p) for p in params]
    twins, twin = trained(steps=4)
    assert same_bits(params, twins)
    shown = opt.state[params[0]]["exp_avg"]
    train(params, opt, [4, 5])
    assert int(opt.state[params[0]]["step"]) == 5
    assert opt.state[params[0]]["exp_avg"] is shown
    del twin


def test_copies_of_the_state_alone() -> None:
    params, opt = trained()
    state, entry = copy(opt.state), copy(opt.state[params[0]])
    assert state == opt.state
    assert type(entry) is dict
    assert entry["exp_avg"] is opt.state[params[0]]["exp_avg"] is state[params[0]]["exp_avg"]
    kept = deepcopy(opt.state[params[0]])
    before = bits(kept["exp_avg"])
    train(params, opt, [3])
    assert bits(kept["exp_avg"]) == before
    assert ({} | opt.state) == opt.state == (opt.state | {})
    opt.state = opt.state | {params[0]: kept}
    train(params, opt, [3])
    assert [int(opt.state[p]["step"]) for p in params] == [4, 5]


@counted
def test_a_shallow_copy_has_the_same_state(options: dict[str, Any]) -> None:
    params, opt = trained(**options)
    twins, twin = trained(**options)
    other = copy(opt)
    for seed, one in enumerate((other, opt, opt, other), start=3):
        train(params, one, [seed])
        train(twins, twin, [seed])
        assert same_bits(params, twins)
    assert state_bits(other) == state_bits(opt) == state_bits(twin)


@counted
def test_nothing_is_kept_when_it_is_gone(options: dict[str, Any]) -> None:
    gc.disable()
    try:
        params, opt = trained(**options)
        moment = opt.state[params[0]]["exp_avg"]
        engine, optimizer, shown = opt._engine, ref(opt), ref(moment)
        parts = [ref(engine), ref(engine.core)]
        del opt, engine, moment
        assert [optimizer(), shown(), *(part() for part in parts)] == [None] * 4
    finally:
        gc.enable()
