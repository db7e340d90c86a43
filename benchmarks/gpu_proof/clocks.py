"""How long a step takes, told four ways.

*Device* is the time between two events around one step. A kernel that only spins comes before the first event, for as long as the host
needs to queue the step, so that the device never waits for the host in between; a step that takes the host longer has no device time.
Before that a memory several times the cache's size is read, so that the step finds nothing of its own in the cache. It is not written:
the step would then be held up by what the cache has yet to write back.

*Host* is the time until the call of a step returns, *wall* that until the device is done with it as well, both begun with an idle device.
*Steady* is a step's share of many that are called one after the other, waited for at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from .place import Place
from .record import LeftOut

Step = Callable[[], Any]

LONGEST_SPIN = 25e-3
"""Seconds that the device is kept busy at most."""

OVER_CACHE = 3
"""How many times the cache's size is read between two steps."""

FALLBACK_CACHE = 64 << 20

SOURCE = """
extern "C" __global__ void spin(long long cycles) {
  const long long start = clock64();
  while (clock64() - start < cycles) {
  }
}

extern "C" __global__ void read(const uint4* words, long long count, unsigned* out) {
  unsigned all = 0;
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count; i += gridDim.x * (long long)blockDim.x) {
    const uint4 word = words[i];
    all ^= word.x ^ word.y ^ word.z ^ word.w;
  }
  if (all == 1u) *out = all;  // the words are 0, which the compiler does not know
}
"""


class HostClock:
    """In place of a GPU's clock in a dry run: all four are the host's time."""

    def device(self, step: Step, ahead: float) -> float | None:
        """The time of one step."""
        return self.call(step)[1]

    def call(self, step: Step, wait: Step | None = None) -> tuple[float, float]:
        """The host's time of one step, and the wall time."""
        start = perf_counter()
        step()
        spent = perf_counter() - start
        return spent, spent

    def steady(self, step: Step, count: int, wait: Step | None = None) -> float:
        """The share of one step of so many."""
        start = perf_counter()
        for _ in range(count):
            step()
        (wait or self.synchronize)()
        return (perf_counter() - start) / count

    def synchronize(self) -> None:
        """Nothing is behind."""

    def free_memory(self) -> int:
        """Bytes that may be used."""
        return 1 << 30


class GpuClock(HostClock):
    """A GPU's, by CuPy's or PyTorch's events on the default stream, which all contenders but JAX's work on."""

    def __init__(self, device: Any) -> None:
        self._gpu = device
        self._gpu.flush()
        # Spinning is counted in cycles, and how long these are changes with the clock rate: each spinning tells it for the next.
        self._cycles_a_second = 1e9
        for _ in range(3):
            self.device(lambda: None, 5e-3)

    def device(self, step: Step, ahead: float) -> float | None:
        """The time of one step between two events; ``None`` where the host took longer to queue it than the spinning, ``ahead`` or so."""
        if ahead > LONGEST_SPIN:
            return None
        gpu = self._gpu
        before, begin, end = (gpu.event() for _ in range(3))
        cycles = int(ahead * self._cycles_a_second)
        gpu.flush()
        gpu.synchronize()
        gpu.record(before)
        start = perf_counter()
        gpu.spin(cycles)
        gpu.record(begin)
        step()
        gpu.record(end)
        queued = perf_counter() - start
        gpu.synchronize()
        spun = gpu.elapsed(before, begin)
        self._cycles_a_second = cycles / spun
        return gpu.elapsed(begin, end) if queued < spun else None  # type: ignore[no-any-return]

    def call(self, step: Step, wait: Step | None = None) -> tuple[float, float]:
        """The host's time of one step, and the wall time."""
        wait = wait or self.synchronize
        wait()
        start = perf_counter()
        step()
        returned = perf_counter()
        wait()
        return returned - start, perf_counter() - start

    def steady(self, step: Step, count: int, wait: Step | None = None) -> float:
        """The share of one step of so many."""
        (wait or self.synchronize)()
        return super().steady(step, count, wait)

    def synchronize(self) -> None:
        """Wait for the device."""
        self._gpu.synchronize()

    def free_memory(self) -> int:
        """Bytes that may be used."""
        return int(self._gpu.free_memory())


class _Cupy:
    """What the clock asks of CuPy."""

    def __init__(self) -> None:
        import cupy

        self._cuda, self._runtime = cupy.cuda, cupy.cuda.runtime
        self._spin, self._read = (cupy.RawKernel(SOURCE, name) for name in ("spin", "read"))
        cache = self._runtime.deviceGetAttribute(self._runtime.cudaDevAttrL2CacheSize, 0)
        self._memory, self._out = cupy.zeros(OVER_CACHE * (cache or FALLBACK_CACHE), "u1"), cupy.zeros(1, "u4")

    def event(self) -> Any:
        return self._cuda.Event()

    def record(self, event: Any) -> None:
        event.record(self._cuda.Stream.null)

    def elapsed(self, begin: Any, end: Any) -> float:
        return float(self._cuda.get_elapsed_time(begin, end)) / 1e3

    def spin(self, cycles: int) -> None:
        self._spin((1,), (1,), (np.int64(cycles),))

    def flush(self) -> None:
        self._read((512,), (512,), (self._memory, np.int64(self._memory.nbytes // 16), self._out))

    def synchronize(self) -> None:
        self._runtime.deviceSynchronize()

    def free_memory(self) -> int:
        return int(self._runtime.memGetInfo()[0])


class _Torch:
    """What the clock asks of PyTorch."""

    def __init__(self) -> None:
        import torch

        self._cuda = torch.cuda
        cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or FALLBACK_CACHE
        self._memory = torch.zeros(OVER_CACHE * cache // 4, dtype=torch.int32, device="cuda")

    def event(self) -> Any:
        return self._cuda.Event(enable_timing=True)

    def record(self, event: Any) -> None:
        event.record()

    def elapsed(self, begin: Any, end: Any) -> float:
        return float(begin.elapsed_time(end)) / 1e3

    def spin(self, cycles: int) -> None:
        self._cuda._sleep(cycles)

    def flush(self) -> None:
        self._memory.max()

    def synchronize(self) -> None:
        self._cuda.synchronize()

    def free_memory(self) -> int:
        return int(self._cuda.mem_get_info()[0])


def clock_of(place: Place) -> HostClock:
    """The clock of a place.

    Raises:
        LeftOut: If neither CuPy nor PyTorch can tell the time on the GPU.
    """
    if place.dry_run:
        return HostClock()
    if place.has_cupy:
        return GpuClock(_Cupy())
    if place.has_torch:
        return GpuClock(_Torch())
    raise LeftOut("the time on a GPU is told by CuPy or PyTorch, and neither is here")
