"""How long a step takes: on a CPU told by its own clock, on a GPU told four ways.

*Device* is the time between two events around one step. A kernel that only spins comes before the first event, for as long as the host
needs to queue the step, so that the device never waits for the host in between; a step that takes the host longer has no device time.
Before that a memory several times the cache's size is read, so that the step finds nothing of its own in the cache. It is not written:
the step would then be held up by what the cache has yet to write back.

*Host* is the time until the call of a step returns, *wall* that until the device is done with it as well, both begun with an idle device.
*Steady* is a step's share of many that are called one after the other, waited for at the end. On a CPU all are the same, and only *wall*
is told, of as many steps in a row as a clock can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from .place import Place
from .record import LeftOut

Step = Callable[[], Any]

MIN_SAMPLE = 2e-3
"""Seconds that a sample takes at least on a CPU: shorter steps are repeated within it, and are then at home in the caches."""

MOST_STEADY = 24
"""Steps in a row on a GPU, at most: fewer than the host may be ahead of the device in ours, so that it never waits."""

STEADY_SECONDS = 5e-3
"""What a sample of steps in a row should take on a GPU."""

AHEAD = 1.6
"""How many times its usual the host may take to queue a step."""

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


@dataclass
class Timed:
    """What is timed.

    Attributes:
        step: A step.
        wait: What waits for it; by default the clock's own waiting.
        before: What comes before each step and is not timed; of a clock of the CPU's alone.
        on_stream: Whether it works on the default stream, where events tell its time.
        count: Steps in a row, of a sample of such.
        usual: Seconds that its call usually takes.
        samples: What was found, in seconds of one step, by what was told: ``"device"``, ``"host"``, ``"wall"``, ``"steady"``.
    """

    step: Step
    wait: Step | None = None
    on_stream: bool = True
    before: Step | None = None
    count: int = 1
    usual: float = 0.0
    samples: dict[str, list[float]] = field(default_factory=dict)


class Clock(Protocol):
    """What tells the time."""

    def prepare(self, one: Timed) -> None:
        """Find out how to sample something that has run before."""

    def sample(self, one: Timed) -> None:
        """Add a sample of each kind."""


class CpuClock:
    """The wall time of as many steps as take ``MIN_SAMPLE``."""

    def prepare(self, one: Timed) -> None:
        """Count the steps of a sample."""
        once = _seconds_of(one, 1)
        if once < MIN_SAMPLE:
            # The least of some, lest a moment in which the machine was busy elsewhere is taken for slowness.
            once = min(_seconds_of(one, 3) for _ in range(3))
        one.count = max(1, ceil(MIN_SAMPLE / once))

    def sample(self, one: Timed) -> None:
        """The wall time."""
        # Untimed: each contender comes to its memory after the others have had the caches and the page tables to themselves.
        _seconds_of(one, 1)
        one.samples.setdefault("wall", []).append(_seconds_of(one, one.count))


def _seconds_of(one: Timed, count: int) -> float:
    if one.before is None:
        return _seconds(one.step, count)
    spent = 0.0
    for _ in range(count):
        one.before()
        spent += _seconds(one.step, 1)
    return spent / count


def _seconds(step: Step, count: int) -> float:
    start = perf_counter()
    for _ in range(count):
        step()
    return (perf_counter() - start) / count


class HostClock:
    """In place of a GPU's clock in a dry run: all four are the host's time."""

    def prepare(self, one: Timed) -> None:
        """Find out how long its call takes, and how many steps in a row are to be sampled."""
        host, wall = min(self.call(one.step, one.wait) for _ in range(3))
        one.usual, one.count = host, max(1, min(MOST_STEADY, ceil(STEADY_SECONDS / wall)))

    def sample(self, one: Timed) -> None:
        """All four; of what works on another stream no device time."""
        device = self.device(one.step, AHEAD * one.usual + 50e-6) if one.on_stream else None
        host, wall = self.call(one.step, one.wait)
        steady = self.steady(one.step, one.count, one.wait)
        for name, value in (("device", device), ("host", host), ("wall", wall), ("steady", steady)):
            if value is not None:
                one.samples.setdefault(name, []).append(value)

    def device(self, step: Step, ahead: float) -> float | None:
        """The time of one step."""
        return self.call(step)[1]

    def call(self, step: Step, wait: Step | None = None) -> tuple[float, float]:
        """The host's time of one step, and the wall time."""
        spent = _seconds(step, 1)
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
        return gpu.elapsed(begin, end) if queued < spun else None

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


def gpu_clock(place: Place) -> HostClock:
    """The clock of a GPU, or what stands for it.

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
