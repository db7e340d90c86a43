"""Who is measured in a case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from . import others, variants
from .cases import Case
from .libraries import Cupy, Host, Numba, engines_at_hand, has_torch
from .limit import cpu_limit, gpu_limit
from .plain import TORCH_WAYS, array_adam, gpu_adam, torch_optimizer
from .start import LIMIT, Contender, Start


def cpu_contenders(start: Start) -> Iterator[Contender]:
    """All that run on the CPU; the first of them is the limit."""
    yield Contender({LIMIT: cpu_limit(start.case)})
    if (more := _beyond(start.case)) is not None:
        yield from more(start, {"cpu": Host()}, "cpu")
        return
    yield from gpu_adam(start, "cpu", Host())
    if has_torch():
        yield torch_optimizer(start, "cpu", TORCH_WAYS)
    yield array_adam(start, Host())


def cuda_contenders(start: Start) -> Iterator[Contender]:
    """All that run on a GPU; the first of them is the limit."""
    libraries: dict[str, Any] = {}
    for name, library in (("cupy", Cupy), ("numba", Numba)):
        if name in engines_at_hand():
            libraries[name] = library()
    yield Contender({LIMIT: gpu_limit(start.case, next(iter(libraries.values())))})
    if (more := _beyond(start.case)) is not None:
        yield from more(start, libraries, "cuda")
        return
    for name, library in libraries.items():
        if name == "numba" and start.case.format == "bfloat16":
            continue  # Numba's device arrays know no bfloat16
        yield from gpu_adam(start, name, library)
    if has_torch("cuda"):
        # Each with an optimizer of its own: on a GPU fused counts its steps there, and the others on the host.
        yield from (torch_optimizer(start, "cuda", {way: options}) for way, options in TORCH_WAYS.items())
    if "cupy" in libraries:
        yield array_adam(start, libraries["cupy"])


def _beyond(case: Case) -> Callable[..., Iterator[Contender]] | None:
    """Who is measured in a case that is not Adam alone."""
    if case.optimizer != "adam":
        return others.contenders
    return None if case.variant == "plain" else variants.contenders


def counterpart(case: Case) -> str:
    """The way of PyTorch's that all are compared with."""
    return variants.PAIRS[case.variant] if case.optimizer == "adam" else next(iter(others.torch_ways(case.optimizer)))
