"""Parameters that become others, as in a module's conversion, are followed, and nothing of the state is lost."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from copy import deepcopy
from math import inf
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from gpu_adam.optim.base import GpuOptimizer  # noqa: E402
from tests.support.torch_classes import (  # noqa: E402
    DENSE,
    RICH,
    bits,
    core,
    ours,
    parameters,
    same_bits,
    state_bits,
    train,
    trained,
)


@pytest.fixture(params=[False, True], ids=["", "swapping"])
def swapping(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether a module's conversion swaps tensors, and does not set their ``.data``."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(request.param)
    yield request.param
    torch.__future__.set_swap_module_params_on_conversion(before)


def module(params: list[Any]) -> Any:
    return torch.nn.ParameterList(params)


PACKED = pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])


@PACKED
@pytest.mark.parametrize("convert", ["double", "half", "bfloat16"])
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("name", DENSE)
def test_a_model_converted_between_steps(swapping: bool, name: str, convert: str, steps: int, pack: bool) -> None:
    if pack and name not in ("Adam", "SGD"):
        name = "AdamW"
    params, opt = trained(name=name, steps=steps, pack=pack)
    saved = deepcopy(opt.state_dict())
    if swapping:
        for p in params:
            p.grad = None
    model = module(params)
    getattr(model, convert)()
    assert all(own is p for own, p in zip(model, params, strict=True))
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = core(name, others, **{"lr": 0.1, **RICH.get(name, {}), "pack": pack})
    other.load_state_dict(saved)
    if name == "SGD" and steps:  # PyTorch's saves no step count, and the package's own then takes it for 1
        assert "step" not in saved["state"][0]
    opt.zero_grad()
    assert all(p.grad is None or not p.grad.any() for p in params)
    train(params, opt, range(3, 6))
    train(others, other, range(3, 6))
    assert params[0].dtype == {"double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16}[convert]
    assert same_bits(params, others)
    entry = opt.state[params[0]]
    working = torch.float64 if convert == "double" else torch.float32
    assert {value.dtype for key, value in entry.items() if key != "step"} == {working}
    assert "step" not in entry or int(entry["step"]) == steps + 3


def set_data(params: list[Any]) -> None:
    for p in params:
        p.data = p.data.clone()


def swap_tensors(params: list[Any]) -> None:
    for p in params:
        p.grad = None
        torch.utils.swap_tensors(p, torch.nn.Parameter(p.detach().clone()))


def other_order(params: list[Any]) -> None:
    params[0].data = params[0].data.t().contiguous().t()


def there_and_back(params: list[Any]) -> None:
    module(params).double().float()


MOVES: dict[str, Callable[[list[Any]], Any]] = {
    "memory": set_data,
    "swap_tensors": swap_tensors,
    "another order": other_order,
    "double and back": there_and_back,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "average": {"ema_decay": 0.5},
    "clipped": {"max_grad_norm": 0.5, "skip_nonfinite": True},
    "capturable": {"capturable": True},
    "packed": {"pack": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_moves_that_change_no_number_change_no_bit(move: Callable[[list[Any]], Any], options: dict[str, Any]) -> None:
    params, opt = trained(**options)
    twins, twin = trained(**options)
    for seed in range(3, 7):
        move(params)
        train(params, opt, [seed])
        train(twins, twin, [seed])
        assert same_bits(params, twins)
    assert state_bits(opt) == state_bits(twin)


def test_channels_last() -> None:
    params, twins = parameters(((2, 3, 4, 5), (4,))), parameters(((2, 3, 4, 5), (4,)))
    opt, twin = ours("Adam", params, lr=0.1), ours("Adam", twins, lr=0.1)
    train(params, opt, range(2))
    module(params).to(memory_format=torch.channels_last)
    train(params, opt, range(2, 5))
    train(twins, twin, range(5))
    assert same_bits(params, twins)
    assert params[0].is_contiguous(memory_format=torch.channels_last)
    assert opt.state[params[0]]["exp_avg"].stride() == params[0].stride()
    assert state_bits(opt) == state_bits(twin)


def test_a_model_without_memory_that_gets_some_later() -> None:
    saved = trained()[1].state_dict()
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        for state in (None, saved):
            params = [torch.nn.Parameter(torch.empty_like(p, device="meta")) for p in parameters()]
            opt = ours("Adam", params, lr=0.1)
            if state is not None:
                opt.load_state_dict(state)
                assert not opt.state[params[0]]["exp_avg"].is_meta
            opt.step()
            module(params).to_empty(device="cpu")
            others = parameters()
            for p, q in zip(params, others, strict=True):
                p.data.copy_(q.data)
            other = ours("Adam", others, lr=0.1)
            if state is not None:
                other.load_state_dict(state)
            train(params, opt, range(3))
            train(others, other, range(3))
            assert same_bits(params, others)
            assert state_bits(opt) == state_bits(other)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def test_parameters_without_memory_or_floats_stand_among_others() -> None:
    params, twins = parameters(), parameters()
    odd = [
        torch.nn.Parameter(torch.empty(3, device="meta")),
        torch.nn.Parameter(torch.arange(3), requires_grad=False),
        torch.nn.Parameter(torch.ones(2, dtype=torch.bool), requires_grad=False),
        torch.nn.Parameter(torch.ones(2), requires_grad=False),
    ]
    opt, twin = ours("Adam", [odd[0], params[0], *odd[1:], params[1]], lr=0.1), ours("Adam", twins, lr=0.1)
    train(params, opt, range(2))
    train(twins, twin, range(2))
    assert same_bits(params, twins)
    assert list(opt.state) == params
    assert sorted(opt.state_dict()["state"]) == [1, 5]
    # They become parameters like others.
    odd[1].data = torch.ones(3)
    odd[1].requires_grad_()
    odd[3].requires_grad_()
    train([*params, odd[1], odd[3]], opt, range(2, 4))
    train(twins, twin, range(2, 4))
    assert same_bits(params, twins)
    assert [int(opt.state[p]["step"]) for p in (*params, odd[1], odd[3])] == [4, 4, 2, 2]


def offload(p: Any) -> None:
    p.grad = None
    torch.utils.swap_tensors(p, torch.nn.Parameter(torch.empty_like(p, device="meta")))


def become_integers(p: Any) -> None:
    p.grad = None
    p.requires_grad_(False)
    p.data = p.data.to(torch.int32)


@pytest.mark.parametrize("lose", [offload, become_integers])
def test_a_parameter_that_loses_its_memory_or_floats_rests_until_it_has_some(lose: Callable[[Any], None]) -> None:
    params, opt = trained(ema_decay=0.5)
    twins, twin = trained(ema_decay=0.5)
    kept = params[1].detach().clone()
    before = {key: bits(value) for key, value in opt.state[params[1]].items()}
    lose(params[1])
    with opt.averaged():
        pass
    train(params[:1], opt, [3])
    assert {key: bits(value) for key, value in opt.state[params[1]].items()} == before
    twins[1].grad = None
    train(twins[:1], twin, [3])
    if lose is offload:
        torch.utils.swap_tensors(params[1], torch.nn.Parameter(kept))
    else:
        params[1].data = kept
        params[1].requires_grad_()
    train(params, opt, [4])
    train(twins, twin, [4])
    assert same_bits(params, twins)
    assert state_bits(opt) == state_bits(twin)


def test_skipped_steps_and_averages_are_kept() -> None:
    params, opt = trained(ema_decay=0.5, skip_nonfinite=True, max_grad_norm=1.0)
    params[0].grad[0, 0] = inf
    opt.step()
    average = opt.state[params[0]]["average"].clone()
    module(params).double()
    assert opt.steps_skipped == 1
    with opt.averaged():
        assert same_bits(params[:1], [average.double()])
    params[0].grad = torch.full((3, 4), torch.nan, dtype=torch.float64)
    opt.step()
    assert opt.steps_skipped == opt.state_dict()["steps_skipped"] == 2
    assert same_bits([opt.state[params[0]]["average"]], [average.double()])
    opt.max_grad_norm = 2.0
    opt.add_param_group({"params": parameters(((2,),))})
    train(params, opt, [5])
    assert opt.steps_skipped == 2
    assert opt.max_grad_norm == 2.0


def test_a_momentum_whose_first_step_was_skipped_has_not_begun() -> None:
    # PyTorch's SGD saves no step count: a momentum that is there is that of a step, and then the gradient is dampened.
    results = []
    for is_saved in (False, True):
        params, opt = trained(name="SGD", steps=0, momentum=0.5, dampening=0.5, skip_nonfinite=True)
        for p in params:
            p.grad = torch.full_like(p, torch.nan)
        opt.step()
        assert not any(opt.state.values())
        if is_saved:
            other = ours("SGD", params, skip_nonfinite=True)
            other.load_state_dict(opt.state_dict())
            opt = other
        train(params, opt, range(2))
        results.append(params)
    assert same_bits(*results)


def test_a_master_weight_goes_when_the_parameter_has_more_bits() -> None:
    params, opt = trained()
    module(params).bfloat16()
    train(params, opt, [3])
    assert "master" in opt.state[params[0]]
    module(params).double()
    train(params, opt, [4])
    assert list(opt.state[params[0]]) == ["step", "exp_avg", "exp_avg_sq"]
    averaging = trained(ema_decay=0.5)[1]
    opt.load_state_dict(averaging.state_dict())
    train(params, opt, [5])
    assert "average" not in opt.state[params[0]]


@pytest.mark.parametrize("is_captured", [False, True])
def test_what_a_graph_writes_to_lives_as_long_as_the_optimizer(
    is_captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GpuOptimizer, "_is_captured", is_captured)
    params, opt = trained()
    before = weakref.ref(opt._engine)
    opt.add_param_group({"params": parameters(((2,),))})
    train(params, opt, [3])
    gc.collect()
    assert (before() is not None) == is_captured
    assert before() is not opt._engine
    del opt
    gc.collect()
    assert before() is None


def test_only_what_changes_makes_an_engine() -> None:
    params, opt = trained()
    engine = opt._engine
    opt.param_groups[0].update(lr=0.2, betas=(0.5, 0.6), maximize=True, of_the_user=object())
    opt.param_groups[0]["params"] = list(params)
    set_data(params)
    params[0].requires_grad_(False)
    opt.load_state_dict(opt.state_dict())
    train(params, opt, [3])
    assert opt._engine is engine
    opt.param_groups[0]["params"] = tuple(params[::-1])
    train(params, opt, [4])
    other = opt._engine
    assert other is not engine
    train(params, opt, [5])
    assert opt._engine is other
