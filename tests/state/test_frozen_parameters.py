"""Parameters that do not train, now or ever: they rest, and take no memory."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, GpuSgd
from tests.support.rule_cases import OPTIMIZERS

torch = pytest.importorskip("torch")

FORMATS = ("float32", "float64", "float16", "bfloat16")


def parameters(name: str = "float32", count: int = 4, seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [5, 700, 1, 1025, 64, 3][:count]
    return [torch.nn.Parameter(torch.randn(n, generator=generator).to(getattr(torch, name))) for n in sizes]


def backward(params: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    trained = [p for p in params if p.requires_grad]
    if trained:
        sum((p * torch.randn(p.shape, generator=generator).to(p.dtype)).sum() for p in trained).backward()


def bits(tensor: Any) -> bytes:
    return tensor.detach().view(torch.uint8).numpy().tobytes()


SETTINGS = {"weight_decay": 0.1, "decoupled_weight_decay": True}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
def test_a_frozen_parameter_rests_and_the_others_go_on_as_if_it_were_not_there(name: str, pack: bool) -> None:
    for format, which in product(FORMATS, [(0,), (1, 2), (0, 1, 2, 3)]):
        params, others = parameters(format), parameters(format)
        optimizer = OPTIMIZERS[name](params, lr=0.01, pack=pack, **SETTINGS)
        twin = OPTIMIZERS[name]([p for k, p in enumerate(others) if k not in which] or others, lr=0.01, **SETTINGS)
        for k in which:
            params[k].requires_grad_(False)
            others[k].requires_grad_(False)
        before = [bits(p) for p in params]
        for seed in range(3):
            optimizer.zero_grad()
            twin.zero_grad()
            backward(params, seed)
            backward(others, seed)
            optimizer.step()
            twin.step()
        for k, (p, q) in enumerate(zip(params, others, strict=True)):
            assert (bits(p) == before[k]) == (k in which)
            assert bits(p) == bits(q)
        assert set(optimizer.state_dict()["state"]) == set(range(len(params))) - set(which)


@pytest.mark.parametrize("set_to_none", [False, True])
@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_parameter_that_is_frozen_later_stops_at_once_and_goes_on_when_it_is_thawed(
    pack: bool, set_to_none: bool, momentum: float
) -> None:
    for format in FORMATS:
        params, others = parameters(format), parameters(format)
        optimizer = GpuSgd(params, lr=0.01, momentum=momentum, pack=pack, **SETTINGS)
        twin = GpuSgd(others, lr=0.01, momentum=momentum, **SETTINGS)
        for seed, frozen in enumerate([(), (1,), (1, 3), (3,), (), (0, 1, 2, 3), ()]):
            for k, p in enumerate(params):
                p.requires_grad_(k not in frozen)
            if seed % 2:
                optimizer.zero_grad(set_to_none)  # else what is left of the last step stays in `.grad`
            backward(params, seed)
            gradients = [None if k in frozen else p.grad.clone() for k, p in enumerate(params)]
            optimizer.step()
            twin.step(gradients)
            assert [bits(p) for p in params] == [bits(q) for q in others]
        steps = [int(state["step"]) for state in optimizer.state_dict()["state"].values()]
        assert steps == [6, 4, 6, 4]


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
def test_one_that_was_frozen_at_first_is_taken_in_when_it_is_thawed(pack: bool) -> None:
    for format in FORMATS:
        params, others = parameters(format), parameters(format)
        for one in (params[1], others[1]):
            one.requires_grad_(False)
        optimizer, twin = GpuAdam(params, lr=0.01, pack=pack), GpuAdam(others, lr=0.01)
        for seed in range(5):
            for k in (params[1], others[1]):
                k.requires_grad_(seed >= 2)
            for mine in (optimizer, twin):
                mine.zero_grad()
            backward(params, seed)
            backward(others, seed)
            optimizer.step()
            twin.step()
        assert [bits(p) for p in params] == [bits(q) for q in others]
        saved = optimizer.state_dict()["state"]
        assert [int(saved[k]["step"]) for k in range(4)] == [5, 3, 5, 5]
        if pack:
            assert len(optimizer.plan.launches) == 2  # by step counts
            assert all(launch.table is None for launch in optimizer.plan.launches)
            assert all(p is q for p, q in zip(params, optimizer.param_groups[0]["params"], strict=True))


def test_a_plain_tensor_is_updated_by_the_gradient_that_somebody_gave_it() -> None:
    for pack in (False, True):
        p, q = torch.ones(3), torch.ones(3)
        optimizer = GpuAdam([p, q], lr=0.5, pack=pack)
        p.grad = torch.ones(3)
        optimizer.step()
        assert p[0] == 0.5
        p.requires_grad_(True)
        optimizer.step()
        p.requires_grad_(False)
        before = bits(p)
        optimizer.step()
        assert bits(p) == before


def test_a_gradient_that_is_handed_over_counts_whatever_autograd_does() -> None:
    p = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    for pack in (False, True):
        optimizer = GpuSgd([p], lr=0.5, pack=pack)
        before = float(p[0])
        optimizer.step([torch.ones(3)])
        assert p[0] == before - 0.5


# State is made when it is needed.


class Counted:
    """An engine that counts what is asked of it."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.nbytes = 0
        self.allocate_ = engine.allocate

    def allocate(self, device: Any, nbytes: int) -> Any:
        self.nbytes += nbytes
        return self.allocate_(device, nbytes)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    from gpu_adam.engines import engine_named

    engine = engine_named("cpu")
    counter = Counted(engine)
    monkeypatch.setattr(engine, "allocate", counter.allocate)
    return counter


@pytest.mark.parametrize("options", [{}, {"pack": True}, {"ema_decay": 0.9}, {"max_grad_norm": 1.0}], ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_a_large_frozen_model_takes_no_memory(counted: Counted, format: str, options: dict[str, Any]) -> None:
    frozen = torch.nn.Parameter(torch.zeros(1 << 20, dtype=getattr(torch, format)), requires_grad=False)
    small = torch.nn.Parameter(torch.ones(10, dtype=getattr(torch, format)))
    optimizer = GpuAdam([frozen, small], **options)
    for seed in range(2):
        optimizer.zero_grad()
        backward([small], seed)
        optimizer.step()
    optimizer.state_dict()
    if "ema_decay" in options:
        with optimizer.averaged():
            pass
    repr(optimizer)
    assert 0 < counted.nbytes < 64 << 10


@pytest.mark.parametrize("options", [{}, {"polyak_average": True}], ids=str)
def test_nothing_is_allocated_for_arrays_that_get_no_gradient(counted: Counted, options: dict[str, Any]) -> None:
    big, small = np.zeros(1 << 20, np.float16), np.ones(10, np.float16)
    optimizer = GpuAdam([big, small], **options)
    print(optimizer.plan)
    assert counted.nbytes == 0
    optimizer.step([None, small])
    before = counted.nbytes
    assert before < 64 << 10
    optimizer.step([big, small])
    assert counted.nbytes - before >= 12 << 20
    again = GpuAdam([np.zeros(1 << 20, np.float16), np.ones(10, np.float16)], **options)
    counted.nbytes = 0
    again.load_state_dict(GpuAdam([big, small]).state_dict())
    assert counted.nbytes == 0


def test_gradual_unfreezing_is_bit_identical_to_stepping_each_alone() -> None:
    params, alone = parameters(count=6), parameters(count=6)
    optimizer = GpuAdam(params, lr=0.01)
    singles = [GpuAdam([p], lr=0.01) for p in alone]
    for step in range(6):
        for k, (p, q) in enumerate(zip(params, alone, strict=True)):
            p.requires_grad_(k <= step)
            q.requires_grad_(k <= step)
            p.grad = q.grad = None
        backward(params, step)
        backward(alone, step)
        optimizer.step()
        for k, single in enumerate(singles):
            if k <= step:
                single.step()
    assert [bits(p) for p in params] == [bits(q) for q in alone]


# Averages begin with the first step.


@pytest.mark.parametrize("options", [{"ema_decay": 0.9}, {"polyak_average": True}], ids=str)
@pytest.mark.parametrize("pack", [False, True])
def test_an_average_begins_with_what_the_parameter_is_at_the_first_step(options: dict[str, Any], pack: bool) -> None:
    p = np.full(3, np.nan, np.float32)
    looked, plain = (GpuAdam([p.copy()], pack=pack, **options) for _ in range(2))
    for optimizer in (looked, plain):
        optimizer.params[0][...] = 1.0
    assert looked.averaged_params[0].tolist() == [1.0] * 3
    for optimizer in (looked, plain):
        optimizer.params[0][...] = 2.0
        optimizer.step([np.ones(3, np.float32)])
    assert looked.averaged_params[0].tobytes() == plain.averaged_params[0].tobytes()
    assert np.isfinite(looked.averaged_params[0]).all()
