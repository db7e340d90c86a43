"""GPUs made of host memory: the GPU engines as they are shipped, above a binding whose kernels are g++'s and whose streams are lists.

A stream's work is done as late as CUDA allows, when somebody waits for it, so that host memory which is overwritten while a copy from
it is queued shows as wrong numbers. What CUDA forbids, and what would be wrong on a real GPU only now and then, is an error: work on
another device than the current one, copies from memory that is not pinned, and in a capture all but kernels and copies.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Protocol
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from gpu_adam.engines.gpu import GpuEngine
from gpu_adam.engines.gpu_binding import Call
from gpu_adam.engines.gpu_kernels import Kernel

from .build import symbol

Work = Callable[[], None]


class Kernels(Protocol):
    """A library of kernels, such as `build.Library`."""

    def kernel(self, symbol: str) -> Callable[[int, int, int], None]:
        """What runs a kernel, given its grid, its block and the address of its arguments' addresses."""


class HostStreams:
    """Streams whose work waits until it is asked for, or is recorded where a stream is being captured.

    A key is a stream's handle; the default stream of device 0 has 0, those of the others negative numbers.
    """

    def __init__(self) -> None:
        self.queues: dict[int, list[Work]] = {}
        self.recordings: dict[int, list[Work]] = {}

    def queue(self, stream: int, work: Work) -> None:
        self.recordings.get(stream, self.queues.setdefault(stream, [])).append(work)

    def finish(self, stream: int, count: int | None = None) -> None:
        """Do the first ``count`` pieces of work of a stream, by default all."""
        queue = self.queues.get(stream, [])
        while queue and (count is None or count > 0):
            queue.pop(0)()
            if count is not None:
                count -= 1

    def finish_all(self) -> None:
        for stream in list(self.queues):
            self.finish(stream)

    def refuse_capture(self, what: str) -> None:
        assert not self.recordings, f"{what} while a stream is being captured"


class HostEvent:
    """A place in a stream, known by a flag that a piece of work sets."""

    def __init__(self, binding: HostBinding) -> None:
        self.binding = binding
        self.device = binding.device
        self.stream = 0
        self.reached = [True]

    def record(self, stream: int) -> None:
        assert self.device == self.binding.device, "an event is recorded on its own device"
        reached = [False]
        self.stream, self.reached = self.binding.key(stream), reached
        assert self.stream not in self.binding.streams.recordings, "an event is recorded in a capture"
        self.binding.streams.queue(self.stream, lambda: reached.__setitem__(0, True))

    def synchronize(self) -> None:
        self.binding.streams.refuse_capture("an event is waited for")
        self.binding.waits += not self.reached[0]
        _wait(self.binding.streams, self.stream, self.reached)

    def hold(self, stream: int) -> None:
        other, reached, streams = self.stream, self.reached, self.binding.streams
        key = self.binding.key(stream)
        assert key not in streams.recordings, "a capture waits for an event from outside"
        streams.queue(key, lambda: _wait(streams, other, reached))


def _wait(streams: HostStreams, stream: int, reached: list[bool]) -> None:
    while not reached[0]:
        streams.finish(stream, 1)


class HostGraph:
    """See `gpu_adam.engines.gpu_binding.Graph`; the work that a stream was given while it was captured."""

    def __init__(self, binding: HostBinding, work: list[Work]) -> None:
        self.binding = binding
        self.work = work

    def launch(self, stream: int) -> None:
        self.binding.launches += 1
        for work in self.work:
            self.binding.streams.queue(self.binding.key(stream), work)


class HostBinding:
    """See `gpu_adam.engines.gpu_binding.Binding`.

    Attributes:
        device: The current device.
        allocations: Stretches of memory that were asked for, pinned ones too.
        waits: Times that the host had to wait.
        launches: Kernels and graphs that were queued.
    """

    def __init__(self, library: Kernels) -> None:
        self.library = library
        self.streams = HostStreams()
        self.current = 0
        self.device = 0
        self.allocations = 0
        self.waits = 0
        self.launches = 0
        self._homes: dict[int, int] = {}
        self._known: dict[int, int] = {}
        self._handles = count(1 << 20)

    @contextmanager
    def on(self, device: int) -> Iterator[None]:
        before, self.device = self.device, device
        try:
            yield
        finally:
            self.device = before

    def processors(self, device: int) -> int:
        return 4

    def capability(self, device: int) -> int:
        return 0

    def function(self, binary: bytes, symbol: str) -> Any:
        return self.device, self.library.kernel(symbol)

    def stream(self, stream: int | None) -> int:
        return self.current if stream is None else stream

    def key(self, stream: int) -> int:
        """A stream of the current device, as its queue is called."""
        if stream == 0:
            return -self.device
        home = self._homes.setdefault(stream, self.device)
        assert home == self.device, f"stream {stream} of device {home} is used on device {self.device}"
        return stream

    def is_capturing(self, stream: int) -> bool:
        return self.key(stream) in self.streams.recordings

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        # Of that very size, so that AddressSanitizer sees an access past the end.
        owner = self._new(np.zeros(max(nbytes, 1), np.uint8))
        return owner.ctypes.data, owner

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        return self._new(np.full(max(nbytes, 1), 0xA5, np.uint8))

    def _new(self, memory: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self.streams.refuse_capture("memory is allocated")
        self.allocations += 1
        self._known[memory.ctypes.data] = memory.nbytes
        finalize(memory, self._free, memory.ctypes.data).atexit = False
        return memory

    def _free(self, address: int) -> None:
        # As cudaFree, which waits for the device.
        self.streams.finish_all()
        self._known.pop(address, None)

    def wait(self) -> None:
        self.streams.refuse_capture("the device is waited for")
        self.waits += any(self.streams.queues.values())
        self.streams.finish_all()

    def exchange(self, to: int, source: int, nbytes: int, stream: int | None) -> None:
        self.wait()
        ctypes.memmove(to, source, nbytes)

    def event(self) -> HostEvent:
        return HostEvent(self)

    def copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        for address in (to, source):
            assert self._is_known(address, nbytes), "a copy from or to memory that is neither pinned nor a device's"
        self.streams.queue(self.key(stream), lambda: ctypes.memmove(to, source, nbytes) and None)

    def _is_known(self, address: int, nbytes: int) -> bool:
        return any(begin <= address and address + nbytes <= begin + size for begin, size in self._known.items())

    def launch(self, call: Call, stream: int) -> None:
        device, kernel = call.function
        assert device == self.device, "a kernel of another device"
        self.launches += 1
        self.streams.queue(self.key(stream), lambda: kernel(call.grid, call.block, call.parameters))

    def capture(self, work: Callable[[int], None]) -> HostGraph:
        stream = next(self._handles)
        with self.captured(stream) as graph:
            work(stream)
        return graph

    @contextmanager
    def captured(self, stream: int) -> Iterator[HostGraph]:
        """Capture what a stream is given in a block."""
        key = self.key(stream)
        graph = HostGraph(self, self.streams.recordings.setdefault(key, []))
        try:
            yield graph
        finally:
            del self.streams.recordings[key]


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
