"""Who is measured at other optimizers than Adam: our own in place, and PyTorch's of the same name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .libraries import has_torch
from .plain import bound, host_params, torch_optimizer
from .rules import RULES
from .start import Contender, Start


def contenders(start: Start, libraries: Mapping[str, Any], device: str) -> Iterator[Contender]:
    """All but the limit.

    Args:
        start: The values to begin with.
        libraries: The engines to measure, and the library whose arrays each gets.
        device: PyTorch's name of where.
    """
    for engine, library in libraries.items():
        optimizer = bound(start, engine, library, pack=False)
        yield Contender({f"{type(optimizer).__name__} {engine} in place": optimizer.step}, host_params(optimizer))
    if has_torch(device):
        yield torch_optimizer(start, device, torch_ways(start.case.optimizer))


def torch_ways(optimizer: str) -> dict[str, dict[str, bool]]:
    """PyTorch's fused way, or where it has none its two others; the first is what all are compared with.

    Asked for none, PyTorch takes the loop on a CPU and foreach on a GPU.
    """
    if RULES[optimizer].fused:
        return {"torch fused": {"fused": True}}
    return {"torch foreach": {"foreach": True}, "torch loop": {"foreach": False}}
