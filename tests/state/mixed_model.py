"""A torch model with a parameter of every format, what it is compared by, and the modes of threads that it is trained in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.reference import assert_same_bits

torch = pytest.importorskip("torch")

FORMATS = ("float32", "float16", "bfloat16", "float64")


class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
    """One parameter of each format."""

    def __init__(self) -> None:
        super().__init__()
        for k, name in enumerate(FORMATS):
            start = torch.arange(k, k + 6, dtype=torch.float64).reshape(2, 3).to(getattr(torch, name))
            self.register_parameter(f"p_{name}", torch.nn.Parameter(start))

    def grads(self, seed: int) -> list[Any]:
        rng = np.random.default_rng(seed)
        return [torch.from_numpy(rng.standard_normal(p.shape)).to(p.dtype) for p in self.parameters()]


def made(model: Model, **options: Any) -> GpuAdam:
    return GpuAdam(model.named_parameters(), lr=0.1, **options)


def trained(steps: int = 3, **options: Any) -> tuple[Model, GpuAdam]:
    model = Model()
    optimizer = made(model, **options)
    for seed in range(steps):
        optimizer.step(model.grads(seed))
    return model, optimizer


def assert_same(a: Any, b: Any, what: str = "") -> None:
    """Equal, also in their types, whatever they are made of."""
    assert type(a) is type(b), what
    if isinstance(a, dict):
        assert a.keys() == b.keys(), what
        for key in a:
            assert_same(a[key], b[key], f"{what} {key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other, what)
    elif isinstance(a, torch.Tensor):
        assert (a.dtype, a.device) == (b.dtype, b.device), what
        assert torch.equal(a.nan_to_num(), b.nan_to_num()), what
    elif isinstance(a, np.ndarray):
        assert_same_bits(a, b, what)
    else:
        assert a == b, what


@contextmanager
def set_for(set_to: Callable[[Any], Any], value: Any, usual: Any) -> Iterator[None]:
    set_to(value)
    try:
        yield
    finally:
        set_to(usual)


@contextmanager
def warnings_raised() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
