"""Where the network runs: NumPy on the CPU or CuPy on the GPU, the optimizer's engine, and a clock that suits them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cuda.driver import remedy
from ..engines import ENGINES, engine_named, gpu_engine
from ..errors import EngineUnavailable


@dataclass(frozen=True)
class Backend:
    """An array module and an engine of `GpuAdam` that works in its memory.

    Attributes:
        xp: NumPy or CuPy.
        engine: ``"cpu"``, ``"cupy"`` or ``"numba"``.
        why_no_gpu: Where it was chosen for want of a GPU, what is missing.
    """

    xp: Any
    engine: str
    why_no_gpu: str = ""

    def to_host(self, array: Any) -> NDArray[Any]:
        """An array of the module as NumPy's; waits until it is computed."""
        found: NDArray[Any] = array if self.xp is np else self.xp.asnumpy(array)
        return found


def choose(engine: str = "auto") -> Backend:
    """The backend for an engine: by default CuPy's where it can run, and NumPy's otherwise.

    Raises:
        EngineUnavailable: If the engine was asked for by name and it, or the CuPy that the network then needs, cannot run here.
    """
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"engine={engine!r}: use 'auto', {', '.join(map(repr, ENGINES))}")
    if engine == "cpu":
        return Backend(np, engine_named(engine).name)
    if engine != "auto":
        name = engine_named(engine).name  # before CuPy, because its reason for failing says more
        return Backend(_cupy(), name)
    try:
        found = gpu_engine()
    except EngineUnavailable:
        # The reasons are long, and where there is no GPU they are no news.
        return Backend(np, "cpu", why_no_gpu="no GPU engine can run here, and `gpu-adam doctor` says why")
    try:
        return Backend(_cupy(), found.name)
    except EngineUnavailable as error:
        return Backend(np, "cpu", why_no_gpu=str(error))


def _cupy() -> Any:
    try:
        import cupy

        # The first use of each brings in a library of its own: cuBLAS, and NVRTC with the CUDA headers.
        one = cupy.ones((1, 1))
        cupy.exp(one @ one).item()
    except Exception as error:
        # CuPy's loaders and compilers raise exceptions of many kinds.
        raise EngineUnavailable(
            f"the network runs on CuPy, which cannot multiply matrices here ({error}): {remedy(extra='train-cuda')}, or use --engine cpu"
        ) from error
    return cupy


@dataclass
class Stopwatch:
    """Adds up how long a part of the program takes, run after run, without making a GPU wait.

    Attributes:
        backend: Where the part runs.
        seconds: The duration of each run that has been collected.
    """

    backend: Backend
    seconds: list[float] = field(default_factory=list)
    _events: list[tuple[Any, Any]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time what runs inside: by the host's clock on a CPU, by events in the stream on a GPU."""
        if self.backend.xp is np:
            start = perf_counter()
            yield
            self.seconds.append(perf_counter() - start)
            return
        cuda = self.backend.xp.cuda
        begin, end = cuda.Event(), cuda.Event()
        begin.record()
        yield
        end.record()
        self._events.append((begin, end))

    def collect(self) -> None:
        """Wait for a GPU to pass every event, and read them."""
        for begin, end in self._events:
            end.synchronize()
            self.seconds.append(self.backend.xp.cuda.get_elapsed_time(begin, end) / 1000)
        self._events.clear()
