"""Parameters of torch, their gradients, and torch.optim's Adam over them."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")


STEPS = 25

# Relative and absolute to parameters of size about 1. PyTorch rounds 1-β and the moments' sums otherwise.
TOLERANCE = {
    torch.float64: 1e-13,  # a few roundings of 1.1e-16 a step
    torch.float32: 2e-5,  # a few roundings of 6e-8 a step, and float32(1-β2) against 1-float32(β2)
}

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "L2 decay": {"weight_decay": 0.1},
    "amsgrad": {"amsgrad": True},
    "maximize": {"maximize": True, "weight_decay": 0.05},
    "betas and eps": {"lr": 0.03, "betas": (0.5, 0.9), "eps": 1e-3},
    "AdamW": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "AdamW with amsgrad": {"weight_decay": 0.1, "decoupled_weight_decay": True, "amsgrad": True},
}


def parameters(dtype: Any = torch.float32) -> list[Any]:
    """Parameters of several shapes, one of them channels-last and one transposed."""
    generator = torch.Generator().manual_seed(3)
    tensors = [
        torch.randn(7, generator=generator),
        torch.randn((), generator=generator),
        torch.randn(2, 3, 4, 5, generator=generator).contiguous(memory_format=torch.channels_last),
        torch.randn(6, 5, generator=generator).t(),
        torch.randn(0, 3, generator=generator),
    ]
    return [torch.nn.Parameter(tensor.to(dtype)) for tensor in tensors]


def set_gradients(params: list[Any], seed: int, dtype: Any = None) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def torch_optimizer(params: Any, **options: Any) -> Any:
    decoupled = options.pop("decoupled_weight_decay", False)
    return (torch.optim.AdamW if decoupled else torch.optim.Adam)(params, **{"weight_decay": 0, **options})


def assert_close(ours: list[Any], theirs: list[Any]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        tolerance = TOLERANCE[a.dtype]
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
