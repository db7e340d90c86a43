"""What the GPU engines ask of a library that CUDA is reached through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from .staging import Transport


class Call:
    """One kernel call, with its arguments in the form that the driver takes: the addresses of their values."""

    def __init__(self, function: Any, grid: int, block: int, arguments: Sequence[int]) -> None:
        self.function = function
        self.grid = grid
        self.block = block
        # Every argument of our kernels is a pointer or a long long: 8 bytes.
        self._values = np.array(arguments, np.int64)
        self._addresses = self._values.ctypes.data + np.arange(len(self._values), dtype=np.uint64) * np.uint64(8)
        self.parameters: int = self._addresses.ctypes.data


class Graph(Protocol):
    """Work that was captured, ready to be launched."""

    def launch(self, stream: int) -> None:
        """Queue all of it."""


class Binding(Transport, Protocol):
    """CUDA as a library offers it, every call checked. But for the first three, the right device is current."""

    def on(self, device: int) -> AbstractContextManager[Any]:
        """Make a device current for a while."""

    def multiprocessors(self, device: int) -> int:
        """Multiprocessors of a device."""

    def capability(self, device: int) -> int:
        """Ten times the compute capability of a device."""

    def stream(self, stream: int | None) -> int:
        """The handle of the stream to work on: the library's current one unless another is given."""

    def is_capturing(self, stream: int) -> bool:
        """Whether the stream is being captured in a graph."""

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        """New zeroed memory on the current device: its address, and what keeps it alive."""

    def wait(self) -> None:
        """Have the host wait for all that is queued on the current device."""

    def exchange(self, to: int, source: int, nbytes: int, stream: int | None) -> None:
        """Copy between host and device after all that is queued on the device, and wait for it."""

    def function(self, binary: bytes, symbol: str) -> Any:
        """A kernel of a binary, loaded on the current device."""

    def launch(self, call: Call, stream: int) -> None:
        """Queue a kernel call."""

    def capture(self, work: Callable[[int], None]) -> Graph:
        """What ``work`` queues on the stream that it is handed, as a graph; none of it runs."""
