"""The CPU engine: Numba-compiled loops over the same launches and tables as the GPU engines, shared out to threads."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layout import Device
from ..plan import CPU_POLICY, Launch, Policy, Specialization
from . import Coefficients, EngineUnavailable, Memory
from .threads import ThreadPool, thread_count

SERIAL = 1 << 17
"""Elements up to which one thread is faster than waking others."""

_ALIGNMENT = 256
"""Alignment of allocations, in bytes."""


@functools.cache
def engine() -> CpuEngine:
    """The CPU engine."""
    return CpuEngine()


class CpuEngine:
    """Works in host memory; see `gpu_adam.engines.Engine`."""

    name = "cpu"
    kind = "cpu"
    policy: Policy = CPU_POLICY

    def __init__(self) -> None:
        self.pool = ThreadPool(thread_count())

    def processors(self, device: Device) -> int:
        """Threads of a step."""
        return self.pool.count

    def allocate(self, device: Device, nbytes: int) -> Memory:
        """New memory, all zero bytes."""
        owner = np.zeros(nbytes + _ALIGNMENT, np.uint8)
        address = owner.ctypes.data
        return Memory(device, address + -address % _ALIGNMENT, nbytes, owner)

    def upload(self, memory: Memory, offset: int, data: NDArray[Any], stream: int | None = None) -> None:
        """Copy a contiguous host array into the memory."""
        ctypes.memmove(memory.address + offset, data.ctypes.data, data.nbytes)

    def download(self, memory: Memory, offset: int, nbytes: int, stream: int | None = None) -> NDArray[np.uint8]:
        """Copy bytes out of the memory."""
        out = np.empty(nbytes, np.uint8)
        ctypes.memmove(out.ctypes.data, memory.address + offset, nbytes)
        return out

    def check_stream(self, device: Device, stream: int | None) -> None:
        """A CPU has no streams."""

    def load(self, launches: Sequence[Launch], device: Device) -> CpuProgram:
        """Compile what the launches need."""
        return CpuProgram(launches, self.pool)


class CpuProgram:
    """Launches whose work is cut into as many parts as there are threads, once."""

    def __init__(self, launches: Sequence[Launch], pool: ThreadPool) -> None:
        self._pool = pool
        self._calls = [_Call(launch, pool.count) for launch in launches]

    def run(self, coefficients: Coefficients, stream: int | None = None) -> None:
        """Run every launch once; a CPU has no streams."""
        for call in self._calls:
            parts = call.parts(coefficients)
            if len(parts) == 1:
                call.kernel(*parts[0])
            else:
                self._pool.run(call.kernel, parts)

    def rebind(self, launch: int, role: int, stream: int | None = None) -> None:
        """Nothing to do: the kernels read the plan's own table."""


class _Call:
    """One launch: its kernel, and the arguments of each part but for the coefficients."""

    def __init__(self, launch: Launch, threads: int) -> None:
        kind = launch.specialization
        self.kernel = compiled(kind)
        self._working = kind.working.name
        count = min(threads, -(-launch.elements // SERIAL))
        if launch.table is None:
            (task,) = launch.tasks
            # Cuts at multiples of 1,024 elements keep each thread's stretch on cache lines of its own.
            cuts = [task.size * k // count // 1024 * 1024 for k in range(count)] + [task.size]
            self._row: int | slice = task.row
            self._parts: list[tuple[Any, ...]] = [(*task.pointers, cuts[k], cuts[k + 1]) for k in range(count)]
        else:
            table = launch.table
            segments = table.chunk_segments
            covered = np.minimum(table.chunk_starts + launch.chunk, table.ends[segments]) - table.chunk_starts
            done = np.concatenate(([0], np.cumsum(covered)))
            cuts = np.searchsorted(done, done[-1] * np.arange(count + 1) / count).tolist()
            self._row = slice(None)
            fixed = (table.words, table.segments, table.chunks, launch.chunk)
            self._parts = [(*fixed, cuts[k], cuts[k + 1]) for k in range(count)]

    def parts(self, coefficients: Coefficients) -> list[tuple[Any, ...]]:
        rows = coefficients[self._working][self._row]
        return [(*part, rows) for part in self._parts]


@functools.cache
def compiled(kind: Specialization) -> Any:
    """The compiled kernel of a specialization, from the disk where it was compiled before."""
    # Numba takes half a second to import, so it waits for the first step.
    from gpu_adam.kernels.cpu import make_kernel, signature

    from .numba_cache import keep_on_disk

    kernel = make_kernel(kind)
    if not hasattr(kernel, "compile"):
        raise EngineUnavailable("NUMBA_DISABLE_JIT is set, without which the CPU engine cannot run: unset it")
    keep_on_disk(kernel, kind.name)
    kernel.compile(signature(kind))
    return kernel
