"""Who is measured in a case, as functions that make them, so that what cannot be made can be left out alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle
from typing import Any

from gpu_adam import GpuAdam

from . import others, variants
from .cases import LARGE, Case
from .competitors import cupy_kernel, jax_adam, torch_replayed
from .limit import limit
from .place import Place
from .plain import (
    CAPTURABLE,
    TORCH_WAYS,
    array_adam,
    bound,
    gpu_adam,
    host_params,
    host_tensors,
    made,
    tensors,
    torch_optimizer,
)
from .start import LIMIT, Contender, Start
from .training import contenders as training

MOST_TENSORS_JAX = 200
"""Beyond, JAX compiles for minutes: it unrolls the list."""

MOST_TENSORS_LOOP = 1_000
"""Beyond, a step that calls a dozen functions for each tensor takes half a second on a GPU."""


@dataclass(frozen=True)
class Entry:
    """One contender or more to be.

    Attributes:
        label: What to call it when it cannot be made.
        make: Makes them.
    """

    label: str
    make: Callable[[Start], Iterable[Contender]]


def entries(case: Case, place: Place) -> Iterator[Entry]:
    """All that are measured in a case; the first is the limit."""
    yield Entry(LIMIT, lambda start: [Contender({LIMIT: limit(case, place)})])
    if case.gradients == "new":
        yield Entry("a training loop", training.contenders)
    elif case.optimizer != "adam" or case.variant != "plain":
        more = variants.contenders if case.optimizer == "adam" else others.contenders
        libraries = {place.engines[0]: place.native(place.engines[0])}
        yield Entry(f"steps with {case.variant}", lambda start: more(start, libraries, place.device))
    elif place.device == "cpu" and not place.dry_run:
        yield from _on_cpu(place)
    else:
        yield from _on_gpu(case, place)


def counterpart(case: Case) -> str:
    """The way of PyTorch's that all are compared with."""
    return variants.PAIRS[case.variant] if case.optimizer == "adam" else next(iter(others.torch_ways(case.optimizer)))


# ---- Adam alone, on a CPU -----------------------------------------------------------------------------------------------------------


def _on_cpu(place: Place) -> Iterator[Entry]:
    yield Entry("GpuAdam cpu", lambda start: gpu_adam(start, "cpu", place.library))
    if place.has_torch:
        yield Entry("torch", lambda start: [torch_optimizer(start, "cpu", TORCH_WAYS)])
    yield Entry("NumPy", lambda start: [array_adam(start, place.library)])


# ---- Adam alone, on a GPU -----------------------------------------------------------------------------------------------------------


def _on_gpu(case: Case, place: Place) -> Iterator[Entry]:
    for engine in place.engines:
        if place.has_format(case.format, engine):
            yield from _ours(case, engine, place)
    if place.has_torch:
        yield from _torch(case, place)
    if case.format == "float32":
        yield from _others(case, place)


def _ours(case: Case, engine: str, place: Place) -> Iterator[Entry]:
    name, library, is_large = f"GpuAdam {engine}", place.native(engine), case.elements >= LARGE
    is_first = engine == place.engines[0]

    def plain(start: Start, pack: bool, label: str) -> Iterator[Contender]:
        optimizer = bound(start, engine, library, pack=pack)
        yield Contender({label: optimizer.step}, host_params(optimizer), optimizer=optimizer)

    def replayed(start: Start, label: str) -> Iterator[Contender]:
        optimizer = bound(start, engine, library, pack=True, capturable=True)
        # The CPU has no graphs; in a dry run a step stands for a replay.
        replay = optimizer.step if place.dry_run else optimizer.graph().replay
        yield Contender({label: replay}, host_params(optimizer), optimizer=optimizer)

    def anew(start: Start, label: str) -> Iterator[Contender]:
        optimizer = made(start, engine, library)
        lists = cycle([[library.put(g) for g in start.grads] for _ in range(2)])
        yield Contender({label: lambda: optimizer.step(next(lists))}, host_params(optimizer), optimizer=optimizer)

    def on_torch(start: Start, pack: bool, label: str) -> Iterator[Contender]:
        params = tensors(start, place.device)
        grads = [p.grad for p in params]
        optimizer = GpuAdam(params, **start.hyperparameters, engine=engine, pack=pack)
        if pack:
            for view, gradient in zip(optimizer.grads, grads, strict=True):
                view.copy_(gradient)
        yield Contender({label: optimizer.step}, host_tensors(params), optimizer=optimizer)

    def entry(label: str, make: Callable[..., Iterator[Contender]], *arguments: Any) -> Entry:
        return Entry(label, lambda start: make(start, *arguments, label))

    packings = ((True, "packed"), (False, "in place"))
    for pack, how in packings:
        if is_first or not is_large:
            yield entry(f"{name} {how}", plain, pack)
    if case.format != "float32":
        return
    if not is_large:
        yield entry(f"{name} packed, graph replay", replayed)
    if not (is_first and case.kind == "list"):
        return
    if not is_large:
        yield entry(f"{name} in place, other gradients each step", anew)
    if place.has_torch:
        for pack, how in packings:
            yield entry(f"{name} {how}, torch tensors", on_torch, pack)


def _torch(case: Case, place: Place) -> Iterator[Entry]:
    """Each way with an optimizer of its own: on a GPU fused counts its steps there, and the others on the host."""
    is_large = case.elements >= LARGE

    def entry(way: str, options: dict[str, bool]) -> Entry:
        return Entry(way, lambda start: [torch_optimizer(start, place.device, {way: options})])

    for way, options in TORCH_WAYS.items():
        if way == "torch loop" and (is_large or len(case.shapes) > MOST_TENSORS_LOOP):
            continue
        if way == "torch foreach" and is_large:
            continue  # its temporaries are as large as the parameters again
        yield entry(way, options)
    if case.format == "float32" and not is_large and not place.dry_run:
        yield entry("torch fused, capturable", CAPTURABLE)
        label = "torch fused, graph replay"
        yield Entry(label, lambda start: [torch_replayed(start, label)])


def _others(case: Case, place: Place) -> Iterator[Entry]:
    if place.has_cupy:
        yield Entry("CuPy ElementwiseKernel", lambda start: [cupy_kernel(start, place.library)])
        if case.elements < LARGE and len(case.shapes) <= MOST_TENSORS_LOOP:
            yield Entry("CuPy, the NumPy code", lambda start: [array_adam(start, place.library)])
    elif place.dry_run:
        yield Entry("NumPy", lambda start: [array_adam(start, place.library)])
    if find_spec("jax") is not None and len(case.shapes) <= MOST_TENSORS_JAX:
        yield Entry("JAX", lambda start: [jax_adam(start, place.device)])
