"""GPUs made of host memory: the GPU engines as they are shipped, above a binding whose kernels are g++'s and whose streams are lists.

A stream's work is done as late as CUDA allows, when somebody waits for it, so that host memory which is overwritten while a copy from
it is queued shows as wrong numbers. What CUDA forbids, and what would be wrong on a real GPU only now and then, is an error: work in no
context or on another device than the current one, copies from memory that is not pinned, work in memory that has been given back, and
beside a capture what would spoil it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Protocol

from gpu_adam.engines.cuda.binding import Call
from gpu_adam.engines.cuda.driver_binding import DriverBinding
from gpu_adam.engines.cuda.engine import GpuEngine
from gpu_adam.kernels.specialization import Kernel

from .build import symbol
from .host_driver import GLOBAL, THREAD_LOCAL, HostDriver, HostStreams, Recording, Work


class Kernels(Protocol):
    """A library of kernels, such as `build.Library`."""

    def kernel(self, symbol: str) -> Callable[[int, int, int], None]:
        """What runs a kernel, given its grid, its block and the address of its arguments' addresses."""


class HostGraph:
    """See `gpu_adam.engines.cuda.binding.Graph`; the work that a stream was given while it was captured."""

    def __init__(self, binding: HostBinding, work: list[Work]) -> None:
        self.binding = binding
        self.work = work

    def launch(self, stream: int) -> None:
        self.binding.launches += 1
        for work in self.work:
            self.binding.streams.queue(self.binding.key(stream), work)


class HostBinding(DriverBinding):
    """See `gpu_adam.engines.cuda.binding.Binding`; what goes to the driver is the shipped part, over a `HostDriver`.

    Attributes:
        current: The stream that a library's user works on.
        launches: Kernels and graphs that were queued.
    """

    def __init__(self, library: Kernels) -> None:
        super().__init__(HostDriver())  # type: ignore[arg-type]
        self.library = library
        self.current = 0
        self.launches = 0
        self._handles = count(1 << 20)

    @property
    def host(self) -> HostDriver:
        driver: Any = self.driver
        assert isinstance(driver, HostDriver)
        return driver

    @property
    def streams(self) -> HostStreams:
        return self.host.streams

    @property
    def device(self) -> int:
        return self.host.device

    @property
    def allocations(self) -> int:
        return self.host.allocations

    @property
    def waits(self) -> int:
        return self.host.waits

    def function(self, binary: bytes, symbol: str) -> Any:
        return self.device, self.library.kernel(symbol)

    def stream(self, stream: int | None) -> int:
        return self.current if stream is None else stream

    def key(self, stream: int) -> int:
        """A stream of the current device, as its queue is called."""
        return self.host.key(stream)

    def is_capturing(self, stream: int) -> bool:
        return self.key(stream) in self.streams.recordings

    def wait(self) -> None:
        self.streams.refuse_capture("the device is waited for")
        self.host.waits += any(self.streams.queues.values())
        self.streams.finish_all()

    def exchange(self, to: int, source: int, nbytes: int, stream: int | None) -> None:
        self.host.require_context("a copy")
        self.wait()
        ctypes.memmove(to, source, nbytes)

    def copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        self.host.require_context("a copy")
        for address in (to, source):
            assert self._is_known(address, nbytes), "a copy from or to memory that is neither pinned nor a device's"

        def work() -> None:
            # Also when a graph does it, long after it was captured.
            assert self._is_known(to, nbytes), "a copy to memory that has been given back"
            assert self._is_known(source, nbytes), "a copy from memory that has been given back"
            ctypes.memmove(to, source, nbytes)

        self.streams.queue(self.key(stream), work)

    def _is_known(self, address: int, nbytes: int) -> bool:
        return self.host.is_known(address, nbytes)

    def launch(self, call: Call, stream: int) -> None:
        self.host.require_context("a kernel's launch")
        device, kernel = call.function
        assert device == self.device, "a kernel of another device"
        self.launches += 1
        # A graph keeps a copy of the arguments.
        kept = Call(call.function, call.grid, call.block, call._values.tolist())
        memories = [begin for begin in call._values.tolist() if begin in self.host.known]

        def work() -> None:
            gone = [begin for begin in memories if begin not in self.host.known]
            assert not gone, "a kernel works in memory that has been given back"
            kernel(kept.grid, kept.block, kept.parameters)

        self.streams.queue(self.key(stream), work)

    def capture(self, work: Callable[[int], None]) -> HostGraph:
        stream = next(self._handles)
        with self.captured(stream, THREAD_LOCAL) as graph:
            work(stream)
        return graph

    @contextmanager
    def captured(self, stream: int, mode: int = GLOBAL) -> Iterator[HostGraph]:
        """Capture what a stream is given in a block."""
        key = self.key(stream)
        recording = self.streams.recordings.setdefault(key, Recording(mode))
        graph = HostGraph(self, recording)
        try:
            yield graph
        finally:
            del self.streams.recordings[key]
        assert recording.invalid is None, f"the capture is spoilt: {recording.invalid} in its course"


class HostEngine(GpuEngine[HostBinding]):
    """The GPU engines as they are shipped, all but their compiler, with the library's kernels."""

    name = "host"

    def __init__(self, library: Kernels) -> None:
        self.binding = HostBinding(library)
        super().__init__(self.binding)

    def compiled(self, kernel: Kernel, capability: int) -> tuple[str, bytes]:
        return symbol(kernel), b""

    def finish(self) -> None:
        """Wait for all streams."""
        self.binding.streams.finish_all()


class InHostMemory(HostEngine):
    """The engine as it is, for parameters that are NumPy's."""

    kind = "cpu"
