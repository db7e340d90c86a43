"""The driver of GPUs made of host memory: contexts, memory, events, and streams whose work waits in lists."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from itertools import count

import numpy as np
from numpy.typing import NDArray

from gpu_adam.cuda.calls import CAPABILITY_MAJOR, CAPABILITY_MINOR, MULTIPROCESSORS, OUT_OF_MEMORY, RELAXED, DriverError

Work = Callable[[], None]


class Recording(list[Work]):
    """The work that a stream is given while it is captured.

    Attributes:
        invalid: What somebody did that CUDA does not allow beside the capture.
    """

    def __init__(self, mode: int) -> None:
        super().__init__()
        self.mode = mode
        self.thread = threading.get_ident()
        self.invalid: str | None = None


class HostStreams:
    """Streams whose work waits until it is asked for, or is recorded where a stream is being captured.

    A key is a stream's handle; the default stream of device 0 has 0, those of the others negative numbers.
    """

    def __init__(self) -> None:
        self.queues: dict[int, list[Work]] = {}
        self.recordings: dict[int, Recording] = {}

    def queue(self, stream: int, work: Work) -> None:
        recording = self.recordings.get(stream)
        (self.queues.setdefault(stream, []) if recording is None else recording).append(work)

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


GLOBAL, THREAD_LOCAL = 0, 1
"""Modes of a capture and of a thread, beside ``RELAXED``."""


class HostDriver:
    """See `gpu_adam.cuda.calls.CudaDriver`: contexts, memory and events of GPUs made of host memory.

    Attributes:
        streams: The streams of all devices.
        made: Devices whose primary context has been made.
        allocations: Stretches of memory that were asked for, pinned ones too.
        waits: Times that the host had to wait.
        known: The memory that is there, by its address.
        room: Bytes that are left, where a test says so.
    """

    def __init__(self) -> None:
        self.streams = HostStreams()
        self.made: list[int] = []
        self.allocations = 0
        self.waits = 0
        self.known: dict[int, NDArray[np.uint8]] = {}
        self.room: int | None = None
        self._events: dict[int, HostEvent] = {}
        self._handles = count(1)
        self._homes: dict[int, int] = {}
        self._own = threading.local()

    # Contexts: that of a device is 1,000 more than its number, and all above 2,000 are foreign ones, of device 0.

    @property
    def device(self) -> int:
        """The device of the current context; 0 where there is none, as CUDA's runtime says."""
        context = self.current_context()
        return context - 1000 if 1000 <= context < 2000 else 0

    def current_context(self) -> int:
        return getattr(self._own, "context", 0)

    def set_context(self, context: int) -> None:
        self._own.context = context

    def primary_context(self, device: int) -> int:
        if device not in self.made:
            self.made.append(device)
        return 1000 + device

    def exchange_capture_mode(self, mode: int) -> int:
        before = getattr(self._own, "mode", GLOBAL)
        self._own.mode = mode
        return before

    def attribute(self, number: int, device: int) -> int:
        return {MULTIPROCESSORS: 4, CAPABILITY_MAJOR: 0, CAPABILITY_MINOR: 0}[number]

    def require_context(self, what: str) -> None:
        assert 1000 <= self.current_context() < 2000, f"{what} in no device's primary context"

    def unsafe(self, what: str) -> None:
        """Fail, and spoil the captures in progress, where CUDA does."""
        for recording in self.streams.recordings.values():
            if getattr(self._own, "mode", GLOBAL) == RELAXED or recording.mode == RELAXED:
                continue
            if recording.mode == GLOBAL or recording.thread == threading.get_ident():
                recording.invalid = what
                raise DriverError(f"{what} failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", 900)

    # Memory.

    def allocate(self, nbytes: int) -> int:
        return self._allocate("cuMemAlloc", np.zeros(nbytes, np.uint8))

    def allocate_host(self, nbytes: int) -> int:
        return self._allocate("cuMemHostAlloc", np.full(nbytes, 0xA5, np.uint8))

    def _allocate(self, what: str, memory: NDArray[np.uint8]) -> int:
        # Of that very size, so that AddressSanitizer sees an access past the end.
        self.require_context(what)
        self.unsafe(what)
        if self.room is not None:
            if memory.nbytes > self.room:
                raise DriverError(f"{what} failed: CUDA_ERROR_OUT_OF_MEMORY", OUT_OF_MEMORY)
            self.room -= memory.nbytes
        self.allocations += 1
        self.known[memory.ctypes.data] = memory
        return memory.ctypes.data

    def free(self, address: int) -> None:
        self.require_context("cuMemFree")
        self.unsafe("cuMemFree")
        # It waits for the device.
        self.streams.finish_all()
        memory = self.known.pop(address)
        if self.room is not None:
            self.room += memory.nbytes

    free_host = free

    def free_bytes(self) -> int:
        return self.room or 0

    def clear(self, address: int, nbytes: int) -> None:
        ctypes.memset(address, 0, nbytes)

    def is_known(self, address: int, nbytes: int) -> bool:
        return any(begin <= address and address + nbytes <= begin + m.nbytes for begin, m in list(self.known.items()))

    # Streams and events.

    def key(self, stream: int) -> int:
        """A stream of the current device, as its queue is called."""
        if stream == 0:
            return -self.device
        home = self._homes.setdefault(stream, self.device)
        assert home == self.device, f"stream {stream} of device {home} is used on device {self.device}"
        return stream

    def create_event(self) -> int:
        self.require_context("cuEventCreate")
        self.unsafe("cuEventCreate")
        handle = next(self._handles)
        self._events[handle] = HostEvent(self)
        return handle

    def destroy_event(self, event: int) -> None:
        self.unsafe("cuEventDestroy")
        del self._events[event]

    def record_event(self, event: int, stream: int) -> None:
        self._events[event].record(stream)

    def synchronize_event(self, event: int) -> None:
        self._events[event].synchronize()

    def hold_stream(self, stream: int, event: int) -> None:
        self._events[event].hold(stream)


class HostEvent:
    """A place in a stream, known by a flag that a piece of work sets."""

    def __init__(self, driver: HostDriver) -> None:
        self.driver = driver
        self.device = driver.device
        self.stream = 0
        self.reached = [True]

    def record(self, stream: int) -> None:
        assert self.device == self.driver.device, "an event is recorded on its own device"
        reached = [False]
        self.stream, self.reached = self.driver.key(stream), reached
        assert self.stream not in self.driver.streams.recordings, "an event is recorded in a capture"
        self.driver.streams.queue(self.stream, lambda: reached.__setitem__(0, True))

    def synchronize(self) -> None:
        self.driver.streams.refuse_capture("an event is waited for")
        self.driver.waits += not self.reached[0]
        _wait(self.driver.streams, self.stream, self.reached)

    def hold(self, stream: int) -> None:
        other, reached, streams = self.stream, self.reached, self.driver.streams
        key = self.driver.key(stream)
        assert key not in streams.recordings, "a capture waits for an event from outside"
        streams.queue(key, lambda: _wait(streams, other, reached))


def _wait(streams: HostStreams, stream: int, reached: list[bool]) -> None:
    while not reached[0]:
        streams.finish(stream, 1)
