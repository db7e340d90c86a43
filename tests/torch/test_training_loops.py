"""What training loops do beside `zero_grad`, `backward` and `step`: the weights are those that torch.optim's optimizers give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch.distributed.optim import _apply_optimizer_in_backward  # noqa: E402
from torch.optim import swa_utils  # noqa: E402

from gpu_adam.torch import Adam  # noqa: E402
from tests.support.torch_training import assert_close, batch, loss_of, network, train  # noqa: E402


def plain(cls: Any) -> Any:
    model = network()
    return train(model, cls(model.parameters(), lr=0.01), 5)


def with_closure(cls: Any) -> Any:
    model = network()
    optimizer = cls(model.parameters(), lr=0.01)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch())
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    return model


def clipped_by_norm(cls: Any) -> Any:
    model = network()
    return train(model, cls(model.parameters(), lr=0.01), 5, max_norm=0.1)


def clipped_by_value(cls: Any) -> Any:
    model = network()
    optimizer = cls(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(model, batch()).backward()
        torch.nn.utils.clip_grad_value_(model.parameters(), 0.01)
        optimizer.step()
    return model


def accumulated(cls: Any) -> Any:
    model = network()
    optimizer = cls(model.parameters(), lr=0.01)
    x, y = batch()
    for _ in range(5):
        optimizer.zero_grad(set_to_none=False)
        for part in zip(x.chunk(4), y.chunk(4), strict=True):
            (loss_of(model, part) / 4).backward()
        optimizer.step()
    return model


def frozen_for_a_while(cls: Any) -> Any:
    model = network()
    optimizer = cls(model.parameters(), lr=0.01)
    for trained in (True, False, True):
        model[0].requires_grad_(trained)
        train(model, optimizer, 2)
    return model


def complex_parameters(cls: Any) -> Any:
    model = torch.nn.Module()
    numbers = torch.randn(3, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    model.weight = torch.nn.Parameter(numbers)
    optimizer = cls(model.parameters(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        model.weight.abs().square().sum().backward()
        optimizer.step()
    return model


def released_gradients(cls: Any) -> Any:
    """One optimizer for each parameter, which steps as soon as the gradient is there and lets go of it."""
    model = network()
    optimizers = {p: cls([p], lr=0.01) for p in model.parameters()}

    def step(p: Any) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    for _ in range(4):
        loss_of(model, batch()).backward()
        assert all(p.grad is None for p in model.parameters())
    return model


def applied_in_backward(cls: Any) -> Any:
    model = network()
    _apply_optimizer_in_backward(cls, model.parameters(), {"lr": 0.01})
    for _ in range(4):
        loss_of(model, batch()).backward()
    return model


def averaged(cls: Any) -> Any:
    model = network()
    optimizer = cls(model.parameters(), lr=0.01)
    average = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    scheduler = swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
    for _ in range(4):
        train(model, optimizer, 1)
        average.update_parameters(model)
        scheduler.step()
    return average


LOOPS = [
    plain,
    with_closure,
    clipped_by_norm,
    clipped_by_value,
    accumulated,
    frozen_for_a_while,
    complex_parameters,
    released_gradients,
    applied_in_backward,
    averaged,
]


@pytest.mark.parametrize("trained", LOOPS, ids=lambda loop: loop.__name__)
def test_it_follows_torch_optim(trained: Callable[[Any], Any]) -> None:
    assert_close(trained(Adam), trained(torch.optim.Adam))


def test_a_closure_is_called_once_with_gradients_enabled() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    calls = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        p.grad = torch.ones(2)
        return 3.0

    with torch.no_grad():
        assert Adam([p]).step(closure) == 3.0
    assert calls == [True]


@pytest.mark.parametrize("shape", [(), (1,), (3,)], ids=str)
def test_gradients_that_autograd_has_not_negated_yet(shape: tuple[int, ...]) -> None:
    found = []
    for cls in (torch.optim.Adam, Adam):
        p = torch.nn.Parameter(torch.ones(shape))
        optimizer = cls([p], lr=0.1)
        for k in range(3):
            optimizer.zero_grad()
            # Of one element autograd hands out the very view; of several ones a copy.
            (torch.complex(torch.zeros(shape), p).conj() * torch.full(shape, 1 + (k + 2) * 1j)).real.sum().backward()
            assert p.grad.is_neg() == (p.numel() == 1)
            optimizer.step()
        found.append(p.detach())
    torch.testing.assert_close(*found)


def test_the_profiler_has_a_range_of_every_step() -> None:
    model = network()
    optimizer = Adam(model.parameters())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(model, optimizer, 2)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["Optimizer.step#Adam.step"] == 2
    assert counts["Optimizer.zero_grad#Adam.zero_grad"] == 2
