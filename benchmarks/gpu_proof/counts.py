"""What a step asks of CUDA, counted twice: by the engine's own binding, whose functions are replaced by counting ones, and where PyTorch
is there by its profiler, which sees the calls that reach CUDA's runtime, whoever makes them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle
from typing import Any
from unittest.mock import patch

import numpy as np

from gpu_adam import GpuAdam, LossScaler
from gpu_adam.engines import engine_named

from ..place import Place
from ..record import Report

STEPS = 10
BEFORE = 40
"""Steps before those that are counted: more than the staging ring has slots."""

SHAPES = ((1000,), (30, 50), (7,)) * 30

KINDS = {
    "launches": ("launch",),
    "copies": ("copy",),
    "synchronisations": ("wait", "exchange"),
    "allocations": ("allocate", "pinned", "event"),
}
"""Functions of `gpu_adam.engines.cuda.binding.Binding`, by what they are counted as. A graph's launch is one."""

CALLS = {
    "launches": ("LaunchKernel", "LaunchKernelExC", "LaunchKernelEx", "GraphLaunch", "LaunchCooperativeKernel"),
    "copies": ("MemcpyAsync", "MemcpyHtoDAsync", "MemcpyDtoHAsync", "MemcpyDtoDAsync"),
    "synchronisations": (
        "StreamSynchronize",
        "DeviceSynchronize",
        "CtxSynchronize",
        "Memcpy",
        "MemcpyHtoD",
        "MemcpyDtoH",
    ),
    "waits for an event": ("EventSynchronize",),
    "allocations": (
        "Malloc",
        "MallocAsync",
        "MallocHost",
        "HostAlloc",
        "MemAlloc",
        "MemAllocAsync",
        "MemHostAlloc",
        "MemAllocHost",
    ),
}
"""Functions of CUDA's runtime and driver, without ``cuda`` and ``cu``. A step waits for the event of the step 32 before it, which keeps the
host from running further ahead; on a device that keeps up it has long been reached."""


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Count, program by program."""
    place = Place.gpu(report.dry_run)
    rows: list[dict[str, Any]] = []
    report.result |= {"steps": STEPS, "rows": rows}
    profiler = Profiler(place)
    for engine in place.engines:
        for name, make in PROGRAMS.items():
            with counted(engine_named(engine)) as counts:
                step, optimizer = make(place, engine)
                rows.append({"engine": engine, "program": name, **told(step, optimizer, counts, place, profiler)})
            report.save()


def told(
    step: Callable[[], Any], optimizer: GpuAdam, counts: Counter[str], place: Place, profiler: Profiler
) -> dict[str, Any]:
    """A step's counts; where not every step is the same, the sum over ``STEPS`` is no multiple of it."""
    for _ in range(BEFORE):
        step()
    place.synchronize()
    pools = _pools()
    counts.clear()
    for _ in range(STEPS):
        step()
    found = {kind: counts[kind] / STEPS for kind in KINDS}
    plan = optimizer.plan
    return {
        "a_step": found,
        "planned_launches": len(plan.kernels),
        "pools_changed": _pools() != pools,
        "profiler": profiler.counts(step),
    }


@contextmanager
def counted(engine: Any) -> Iterator[Counter[str]]:
    """A block in which the calls of an engine's binding are counted by kind; of the cpu engine's memory."""
    counts: Counter[str] = Counter()

    def count(kind: str, inner: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        counts[kind] += 1
        return inner(*arguments, **named)

    place = getattr(engine, "_cuda", engine)
    with ExitStack() as stack:
        for kind, names in KINDS.items():
            for name in names:
                if hasattr(place, name):
                    stack.enter_context(patch.object(place, name, partial(count, kind, getattr(place, name))))
        if hasattr(place, "capture"):
            capture = place.capture
            stack.enter_context(patch.object(place, "capture", lambda work: _Counted(capture(work), counts)))
        yield counts


class _Counted:
    """A graph whose launches are counted; what is queued while it is captured is not run."""

    def __init__(self, graph: Any, counts: Counter[str]) -> None:
        self._graph, self._counts = graph, counts

    def launch(self, stream: int) -> None:
        self._counts["launches"] += 1
        self._graph.launch(stream)


# Programs.


def _arrays(place: Place, engine: str, scale: float = 1.0) -> list[Any]:
    library, numbers = place.native(engine), np.random.default_rng(7)
    return [library.put((scale * numbers.standard_normal(shape)).astype(np.float32)) for shape in SHAPES]


def _packed(place: Place, engine: str, **options: Any) -> tuple[Callable[[], Any], GpuAdam]:
    optimizer = GpuAdam(_arrays(place, engine), engine=engine, pack=True, **options)
    return optimizer.step, optimizer


def _in_place(place: Place, engine: str) -> tuple[Callable[[], Any], GpuAdam]:
    optimizer = GpuAdam(_arrays(place, engine), engine=engine)
    optimizer.grads = _arrays(place, engine)
    return optimizer.step, optimizer


def _anew(place: Place, engine: str) -> tuple[Callable[[], Any], GpuAdam]:
    optimizer = GpuAdam(_arrays(place, engine), engine=engine)
    lists = cycle([_arrays(place, engine) for _ in range(2)])
    return lambda: optimizer.step(next(lists)), optimizer


def _scaled(place: Place, engine: str) -> tuple[Callable[[], Any], GpuAdam]:
    _, optimizer = _packed(place, engine)
    scaler = LossScaler(optimizer, growth_interval=5)
    return lambda: optimizer.step(grad_scale=scaler), optimizer


def _replayed(place: Place, engine: str) -> tuple[Callable[[], Any], GpuAdam]:
    step, optimizer = _packed(place, engine, capturable=True, max_grad_norm=1.0)
    step()
    return step if place.dry_run else optimizer.graph().replay, optimizer


PROGRAMS: dict[str, Callable[[Place, str], tuple[Callable[[], Any], GpuAdam]]] = {
    "packed": _packed,
    "in place": _in_place,
    "in place, other gradients each step": _anew,
    "packed, clipping": lambda place, engine: _packed(place, engine, max_grad_norm=1.0),
    "packed, LossScaler": _scaled,
    "packed, graph replay, clipping": _replayed,
}


# Others who count.


def _pools() -> list[int]:
    """What the libraries' pools of memory have given out, and how often."""
    found: list[int] = []
    if "cupy" in sys.modules and sys.modules["cupy"].cuda.is_available():
        pool = sys.modules["cupy"].get_default_memory_pool()
        found += [pool.used_bytes(), pool.total_bytes()]
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found.append(torch.cuda.memory_stats().get("allocation.all.allocated", 0))
    return found


class Profiler:
    """PyTorch's, where it is here. It sees the runtime's calls, of the driver's only launches."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._why_not = "not asked" if place.dry_run else "" if place.has_torch else "PyTorch is not here"
        # Its own calls, which come in each window. The first window has in it what is loaded only once.
        self._own: Counter[str] = Counter()
        for _ in range(2):
            if not self._why_not:
                self._own = self._window(lambda: None)

    def counts(self, step: Callable[[], Any]) -> dict[str, float] | str:
        """What it counts in a step, or why it does not."""
        seen = Counter() if self._why_not else self._window(step)
        return self._why_not or {kind: (seen[kind] - self._own[kind]) / STEPS for kind in CALLS}

    def _window(self, step: Callable[[], Any]) -> Counter[str]:
        from torch.profiler import ProfilerActivity, profile

        self._place.synchronize()
        try:
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
                for _ in range(STEPS):
                    step()
            return calls({event.key: event.count for event in found.key_averages()})
        except Exception as error:
            self._why_not = f"{type(error).__name__}: {error}"[:300]
            return Counter()


def calls(counts: dict[str, int]) -> Counter[str]:
    """Calls of CUDA's functions by kind."""
    by_kind: Counter[str] = Counter()
    for name, count in counts.items():
        # The driver's functions have versions: cuMemAlloc_v2.
        bare = name.removeprefix("cuda").removeprefix("cu").partition("_v")[0]
        for kind, names in CALLS.items():
            if name.startswith("cu") and bare in names:
                by_kind[kind] += count
    return by_kind
