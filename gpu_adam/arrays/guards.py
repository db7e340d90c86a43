"""Torch's own comparison of tensors with what they were like, which its compiler guards a graph with: one call for any number of tensors.

It takes a quarter of the time of asking each tensor for its dtype, shape, strides and the rest. But it is not part of torch's public
interface. So it is relied on only in versions of torch that it was tried with, and after `trusted` has seen it tell tensors apart that
differ in one trait alone. Elsewhere the traits are read one by one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..process.uninterrupted import uninterruptedly

_TRIED = ("2.13.",)
"""What the versions begin with."""


def guard(tensors: Sequence[Any]) -> Callable[..., bool] | None:
    """What tells of as many tensors, each an argument, whether they have the same types, dtypes, devices, shapes, strides and negations.

    It may say no where only a mode of torch, such as that of inference, has changed. ``None`` where it cannot be relied on.
    """
    return _guard(tensors) if trusted() else None


def _guard(tensors: Sequence[Any]) -> Callable[..., bool]:
    torch = sys.modules["torch"]
    check: Callable[..., bool] = torch._C._dynamo.guards.TensorGuards(
        *tensors,
        dynamic_dims_sizes=[list(tensor.shape) for tensor in tensors],
        dynamic_dims_strides=[list(tensor.stride()) for tensor in tensors],
    ).check
    return check


@functools.cache
@uninterruptedly
def trusted() -> bool:
    """Whether torch has it, and it tells tensors apart that differ in one trait alone."""
    torch = sys.modules["torch"]
    if not str(torch.__version__).startswith(_TRIED):
        return False
    try:
        with torch._C.DisableTorchFunction():
            flat = torch.arange(9.0, dtype=torch.float32, device="cpu")
            own = flat[:6].view(2, 3)
            alike = [own, flat[3:].view(2, 3), torch.zeros(2, 3, dtype=torch.float32, device="cpu")]
            others = [
                flat[:6].view(3, 2),
                flat[:6],
                flat[:6].view(1, 2, 3),
                flat[:3].view(1, 3),
                flat[:0],
                flat[:6].view(3, 2).t(),
                flat.as_strided((3, 2), (3, 1)),
                flat.as_strided((2, 3), (0, 1)),
                own.double(),
                own.half(),
                own.view(torch.int32),
                torch._neg_view(own),
                own.to("meta"),
                torch.nn.Parameter(own),
            ]
            check = _guard([own])
            return all(map(check, alike)) and not any(map(check, others)) and not _guard([own, own])(own, flat)
    except Exception:  # whatever another version raises
        return False
