"""Who is measured on a GPU, as functions that make them, so that what cannot be made is left out alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from gpu_adam import GpuAdam

from .. import variants
from ..cases import Case
from ..libraries import Numba
from ..limit import cpu_limit, gpu_limit
from ..plain import TORCH_WAYS, array_adam, bound, host_params, host_tensors, made, tensors, torch_optimizer
from ..start import LIMIT, Contender, Start
from .bench_cases import LARGE
from .competitors import cupy_kernel, jax_adam
from .place import Place

MOST_TENSORS_JAX = 200
"""Beyond, JAX compiles for minutes: it unrolls the list."""

MOST_TENSORS_LOOP = 1_000
"""Beyond, a step that calls a dozen functions for each tensor takes half a second."""


@dataclass(frozen=True)
class Entry:
    """One contender or more to be.

    Attributes:
        label: What to call it when it cannot be made.
        make: Makes them.
    """

    label: str
    make: Callable[[Start], Iterable[Contender]]


@dataclass
class Ours(Contender):
    """A contender of ours.

    Attributes:
        optimizer: Which knows its plan.
    """

    optimizer: Any = None


def entries(case: Case, place: Place) -> Iterator[Entry]:
    """All that are measured in a case; the first is the limit."""
    yield Entry(LIMIT, lambda start: [Contender({LIMIT: _copy(start, place)})])
    if case.variant != "plain":
        libraries = {place.engines[0]: place.native(place.engines[0])}
        yield Entry(f"steps with {case.variant}", lambda start: variants.contenders(start, libraries, place.device))
        return
    for engine in place.engines:
        # Numba's device arrays know no bfloat16.
        if case.format != "bfloat16" or not isinstance(place.native(engine), Numba):
            yield from _ours(case, engine, place)
    if place.has_torch:
        yield from _torch(case, place)
    if case.format == "float32":
        yield from _others(case, place)


def _copy(start: Start, place: Place) -> Callable[[], None]:
    """A plain copy of half the bytes that a step moves: each is read and written. The driver's own, where a library has it."""
    if place.dry_run:
        return cpu_limit(start.case)
    if not place.has_cupy:
        return gpu_limit(start.case, place.library)
    import cupy

    nbytes = start.case.ideal_bytes // 2
    # Bits like an optimizer's, not a constant's, which cost the memory less power. The factor spreads a number over its whole word.
    source = cupy.arange(-(-nbytes // 4), dtype="u4")
    source *= np.uint32(2654435761)
    to = cupy.empty_like(source)
    return lambda: to.data.copy_from_device_async(source.data, nbytes, cupy.cuda.Stream.null)


# Ours.


def _ours(case: Case, engine: str, place: Place) -> Iterator[Entry]:
    name, library, is_large = f"GpuAdam {engine}", place.native(engine), case.elements >= LARGE
    is_first = engine == place.engines[0]

    def plain(start: Start, pack: bool, how: str) -> Iterator[Contender]:
        optimizer = bound(start, engine, library, pack=pack)
        yield Ours({f"{name} {how}": optimizer.step}, host_params(optimizer), optimizer=optimizer)

    def replayed(start: Start) -> Iterator[Contender]:
        optimizer = bound(start, engine, library, pack=True, capturable=True)
        # The CPU has no graphs; in a dry run a step stands for a replay.
        replay = optimizer.step if place.dry_run else optimizer.graph().replay
        yield Ours({f"{name} packed, graph replay": replay}, host_params(optimizer), optimizer=optimizer)

    def anew(start: Start) -> Iterator[Contender]:
        optimizer = made(start, engine, library)
        lists, turn = [[library.put(g) for g in start.grads] for _ in range(2)], 0

        def step() -> None:
            nonlocal turn
            turn = 1 - turn
            optimizer.step(lists[turn])

        yield Ours({f"{name} in place, other gradients each step": step}, host_params(optimizer), optimizer=optimizer)

    def on_torch(start: Start, pack: bool, how: str) -> Iterator[Contender]:
        params = tensors(start, place.device)
        grads = [p.grad for p in params]
        optimizer = GpuAdam(params, **start.hyperparameters, engine=engine, pack=pack)
        if pack:
            for view, gradient in zip(optimizer.grads, grads, strict=True):
                view.copy_(gradient)
        yield Ours({f"{name} {how}, torch tensors": optimizer.step}, host_tensors(params), optimizer=optimizer)

    for pack, how in ((True, "packed"), (False, "in place")):
        if is_first or not is_large:
            yield Entry(f"{name} {how}", lambda start, pack=pack, how=how: plain(start, pack, how))  # type: ignore[misc]
    if case.format != "float32":
        return
    if not is_large:
        yield Entry(f"{name} packed, graph replay", replayed)
    if not (is_first and case.kind == "list"):
        return
    if not is_large:
        yield Entry(f"{name} in place, other gradients each step", anew)
    if place.has_torch:
        for pack, how in ((True, "packed"), (False, "in place")):
            yield Entry(
                f"{name} {how}, torch tensors",
                lambda start, pack=pack, how=how: on_torch(start, pack, how),  # type: ignore[misc]
            )


# Others.


def _torch(case: Case, place: Place) -> Iterator[Entry]:
    is_large = case.elements >= LARGE
    for way, options in TORCH_WAYS.items():
        if way == "torch loop" and (is_large or len(case.shapes) > MOST_TENSORS_LOOP):
            continue
        if way == "torch foreach" and is_large:
            continue  # its temporaries are as large as the parameters again
        yield Entry(way, lambda start, way=way, options=options: [torch_optimizer(start, place.device, {way: options})])  # type: ignore[misc]
    if case.format == "float32" and not is_large and not place.dry_run:
        way = "torch fused, capturable"
        yield Entry(way, lambda start: [torch_optimizer(start, "cuda", {way: _CAPTURABLE})])
        yield Entry(_REPLAYED, lambda start: [_torch_replayed(start)])


_CAPTURABLE = {"fused": True, "foreach": False, "capturable": True}
_REPLAYED = "torch fused, graph replay"


def _torch_replayed(start: Start) -> Contender:
    import torch

    contender = torch_optimizer(start, "cuda", {_REPLAYED: _CAPTURABLE})
    (step,) = contender.steps.values()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()  # what the first step allocates cannot be captured
    torch.cuda.current_stream().wait_stream(side)
    contender.taken = 1
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    contender.steps = {_REPLAYED: graph.replay}
    return contender


def _others(case: Case, place: Place) -> Iterator[Entry]:
    if place.has_cupy:
        yield Entry("CuPy ElementwiseKernel", lambda start: [cupy_kernel(start, place.library)])
        if case.elements < LARGE and len(case.shapes) <= MOST_TENSORS_LOOP:
            yield Entry("CuPy, the NumPy code", lambda start: [array_adam(start, place.library)])
    elif place.dry_run:
        yield Entry("NumPy", lambda start: [array_adam(start, place.library)])
    if find_spec("jax") is not None and len(case.shapes) <= MOST_TENSORS_JAX:
        yield Entry("JAX", lambda start: [jax_adam(start, place.device)])
