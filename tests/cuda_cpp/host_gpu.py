"""A GPU made of host memory: the GPU engines as they are shipped, above a binding whose kernels are g++'s and whose streams are lists.

A stream's work is done as late as CUDA allows, when somebody waits for it, so that host memory which is overwritten while a copy from
it is queued shows as wrong numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_adam.engines.gpu import Call, GpuEngine
from gpu_adam.engines.nvrtc import Instance
from gpu_adam.plan import Launch

from .build import Library, symbol


class HostStreams:
    """Streams whose work waits until it is asked for."""

    def __init__(self) -> None:
        self.queues: dict[int, list[Callable[[], None]]] = {}

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        self.queues.setdefault(stream, []).append(work)

    def finish(self, stream: int, count: int | None = None) -> None:
        """Do the first ``count`` pieces of work of a stream, by default all."""
        queue = self.queues.get(stream, [])
        while queue and (count is None or count > 0):
            queue.pop(0)()
            if count is not None:
                count -= 1


class HostEvent:
    """A place in a stream, known by a flag that a piece of work sets."""

    def __init__(self, streams: HostStreams) -> None:
        self.streams = streams
        self.stream = 0
        self.reached = [True]

    def record(self, stream: int) -> None:
        reached = [False]
        self.stream, self.reached = stream, reached
        self.streams.queue(stream, lambda: reached.__setitem__(0, True))

    def synchronize(self) -> None:
        _wait(self.streams, self.stream, self.reached)

    def hold(self, stream: int) -> None:
        other, reached = self.stream, self.reached
        self.streams.queue(stream, lambda: _wait(self.streams, other, reached))


def _wait(streams: HostStreams, stream: int, reached: list[bool]) -> None:
    while not reached[0]:
        streams.finish(stream, 1)


class HostBinding:
    """See `gpu_adam.engines.gpu.Binding`."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.streams = HostStreams()
        self.current = 0
        self.launches = 0

    @contextmanager
    def on(self, device: int) -> Iterator[None]:
        yield

    def processors(self, device: int) -> int:
        return 4

    def capability(self, device: int) -> int:
        return 0

    def function(self, binary: bytes, symbol: str) -> Any:
        return self.library.kernel(symbol)

    def stream(self, stream: int | None) -> int:
        return self.current if stream is None else stream

    def refuse_capture(self, stream: int) -> None:
        pass

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        # Of that very size, so that AddressSanitizer sees an access past the end.
        owner = np.zeros(max(nbytes, 1), np.uint8)
        return owner.ctypes.data, owner

    def exchange(self, to: int, source: int, nbytes: int, stream: int | None) -> None:
        self.streams.finish(self.stream(stream))
        ctypes.memmove(to, source, nbytes)

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        return np.empty(nbytes, np.uint8)

    def event(self) -> HostEvent:
        return HostEvent(self.streams)

    def copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        self.streams.queue(stream, lambda: ctypes.memmove(to, source, nbytes) and None)

    def launch(self, call: Call, stream: int) -> None:
        self.launches += 1
        self.streams.queue(stream, lambda: call.function(call.grid, call.block, call.parameters))


class HostEngine(GpuEngine[HostBinding]):
    """The GPU engines as they are shipped, all but their compiler, with the library's kernels."""

    name = "host"

    def __init__(self, library: Library) -> None:
        self.binding = HostBinding(library)
        super().__init__(self.binding)

    def compiled(self, launch: Launch, vectors: int, capability: int) -> tuple[str, bytes]:
        return symbol(Instance(launch.specialization, launch.block, vectors)), b""

    def finish(self) -> None:
        """Wait for all streams."""
        for stream in list(self.binding.streams.queues):
            self.binding.streams.finish(stream)
