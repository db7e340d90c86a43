"""A small network of torch's, its data, and the loop that trains it: where optimizers of gpu_adam.torch are compared with torch.optim's."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")


def network(seed: int = 0, dtype: Any = torch.float32) -> Any:
    """A network of 212 parameters in four tensors, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)
    return torch.nn.Sequential(*layers).to(dtype)


def batch(dtype: Any = torch.float32) -> tuple[Any, Any]:
    """32 inputs of 8 numbers and what the network should make of them."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, 8, generator=generator).to(dtype), torch.randn(32, 4, generator=generator).to(dtype)


def shard(rank: int, dtype: Any = torch.float32) -> tuple[Any, Any]:
    """The half of the batch that one of two ranks takes."""
    x, y = batch(dtype)
    return x.chunk(2)[rank], y.chunk(2)[rank]


def loss_of(model: Any, data: tuple[Any, Any]) -> Any:
    x, y = data
    return torch.nn.functional.mse_loss(model(x), y)


def train(
    model: Any, optimizer: Any, steps: int, data: tuple[Any, Any] | None = None, max_norm: float | None = None
) -> Any:
    """Train for some steps, by default on the whole batch in the format of the parameters.

    Returns:
        The model.
    """
    data = data or batch(next(model.parameters()).dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, data).backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
    return model


def tensors(model: Any) -> list[Any]:
    """A model's parameters as whole tensors that nobody updates: those of a model that is sharded are gathered."""
    gathered = [getattr(p, "full_tensor", lambda p=p: p)() for p in model.parameters()]
    return [p.detach().clone() for p in gathered]


def assert_close(model: Any, expected: Any) -> None:
    """Both are as close as two optimizers are that round otherwise: some steps of 0.01, each with a few roundings of 6e-8."""
    torch.testing.assert_close(tensors(model), tensors(expected), rtol=1e-5, atol=2e-6)


def assert_same(model: Any, expected: Any) -> None:
    """Both have the same bits."""
    torch.testing.assert_close(tensors(model), tensors(expected), rtol=0, atol=0, equal_nan=True)
