"""The time of a step outside the kernel, against the number of tensors.

The kernels of the CPU engine are replaced by a function that does nothing, so that what remains is all that comes before, between and
after them: finding the gradients, the coefficients, the calls. The work is left in one part, so that only the number of tensors
differs; what waking the other threads adds is told apart. PyTorch's kernels cannot be taken out; its steps are measured whole, on
tensors of one element.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any
from unittest.mock import patch

import numpy as np

from gpu_adam import GpuAdam
from gpu_adam.engines import cpu

from .clocks import CpuClock, Timed
from .libraries import has_torch
from .plain import TORCH_WAYS
from .timing import by_turns, median, quartiles

COUNTS = (1, 10, 100, 1_000, 10_000)
QUICK_COUNTS = (1, 10)

MOST_UNFUSED = 1_000
"""Tensors up to which PyTorch's slower ways are measured: beyond, a step takes half a second."""

PACKED = (
    "GpuAdam packed, NumPy",
    "GpuAdam packed, NumPy, threads woken",
    "GpuAdam packed, torch",
    "GpuAdam packed, NumPy, clipping",
)
"""The labels that the goal is about."""


def measure(counts: tuple[int, ...], repeats: int, budget: float) -> list[dict[str, Any]]:
    """Medians and quartiles, in seconds, for each number of tensors.

    Args:
        counts: Numbers of tensors.
        repeats: Rounds.
        budget: Seconds for the rounds of one number of tensors.
    """
    rows = []
    for count in counts:
        with without_kernels():
            with patch.multiple(cpu, SERIAL=sys.maxsize, MEASURED_SERIAL=sys.maxsize):
                steps = dict(_steps(count))
                for step in steps.values():
                    step()
            with patch.object(cpu, "SERIAL", 1):
                steps[PACKED[1]] = GpuAdam(
                    [np.ones(256, np.float32) for _ in range(count)], engine="cpu", pack=True
                ).step
                steps[PACKED[1]]()
        timed = {label: Timed(step) for label, step in steps.items()}
        by_turns(timed, CpuClock(), rounds=repeats, seconds=budget)
        for label, one in timed.items():
            wall = one.samples["wall"]
            rows.append({"label": label, "tensors": count, "median": median(wall), "quartiles": quartiles(wall)})
    return rows


def without_kernels() -> Any:
    """A block in which the engine's programs are made of kernels that do nothing."""
    return patch.multiple(cpu, **dict.fromkeys(("compiled", "measuring", "finishing"), lambda *key: _nothing))


def _nothing(*arguments: Any) -> None:
    pass


def _steps(count: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    def arrays() -> list[Any]:
        return [np.ones(1, np.float32) for _ in range(count)]

    in_place, grads = GpuAdam(arrays(), engine="cpu"), arrays()
    in_place.grads = grads
    yield "GpuAdam in place, NumPy", in_place.step
    passed = GpuAdam(arrays(), engine="cpu")
    yield "GpuAdam in place, NumPy, grads passed", lambda: passed.step(grads)
    anew, lists = GpuAdam(arrays(), engine="cpu"), cycle([arrays(), arrays()])
    yield "GpuAdam in place, NumPy, other grads each step", lambda: anew.step(next(lists))
    yield PACKED[0], GpuAdam(arrays(), engine="cpu", pack=True).step
    yield PACKED[3], GpuAdam(arrays(), engine="cpu", pack=True, max_grad_norm=1.0).step
    if not has_torch():
        return
    import torch

    def tensors() -> list[Any]:
        made = [torch.ones(1, requires_grad=True) for _ in range(count)]
        for tensor in made:
            tensor.grad = torch.ones(1)
        return made

    yield "GpuAdam in place, torch", GpuAdam(tensors(), engine="cpu").step
    yield PACKED[2], GpuAdam(tensors(), engine="cpu", pack=True).step
    for way, options in TORCH_WAYS.items():
        if way == "torch fused" or count <= MOST_UNFUSED:
            yield f"{way}, whole step", torch.optim.Adam(tensors(), **options).step
