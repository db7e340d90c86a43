"""What the GPU engines share: all but the compiler and the library that CUDA is reached through.

An engine hands over a `Binding`, its library's way to CUDA, and says how a kernel is compiled. The tables, the coefficients and the
arguments are the same for all, since the kernels of both languages have the same parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..formats import format_named
from ..layout import Device
from ..plan import GPU_POLICY, ROW_WORDS, Launch, Policy
from . import Coefficients, Memory
from .staging import Staging, Transport


class Binding(Transport, Protocol):
    """CUDA as a library offers it, every call checked. But for the first three, the right device is current."""

    def on(self, device: int) -> AbstractContextManager[Any]:
        """Make a device current for a while."""

    def processors(self, device: int) -> int:
        """Multiprocessors of a device."""

    def capability(self, device: int) -> int:
        """Ten times the compute capability of a device."""

    def stream(self, stream: int | None) -> int:
        """The handle of the stream to work on: the library's current one unless another is given."""

    def refuse_capture(self, stream: int) -> None:
        """Raise if the stream is being captured: a graph would repeat this step's coefficients for ever."""

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        """New zeroed memory on the current device: its address, and what keeps it alive."""

    def exchange(self, to: int, source: int, nbytes: int, stream: int | None) -> None:
        """Copy between host and device in the order of the stream, and wait for it."""

    def function(self, binary: bytes, symbol: str) -> Any:
        """A kernel of a binary, loaded on the current device."""

    def launch(self, call: Call, stream: int) -> None:
        """Queue a kernel call."""


SomeBinding = TypeVar("SomeBinding", bound=Binding)


class GpuEngine(Generic[SomeBinding]):
    """Works in the memory of NVIDIA GPUs; see `gpu_adam.engines.Engine`."""

    name: str
    kind = "cuda"
    policy: Policy = GPU_POLICY

    def __init__(self, cuda: SomeBinding) -> None:
        self._cuda = cuda
        self._functions: dict[tuple[Any, ...], Any] = {}
        self._lock = Lock()

    def compiled(self, launch: Launch, vectors: int, capability: int) -> tuple[str, bytes]:
        """The symbol and the binary of a launch's kernel.

        Args:
            launch: What it is for; its block is the most threads that it will run with.
            vectors: Vectors that a thread loads before it computes with the first.
            capability: Ten times the device's compute capability.
        """
        raise NotImplementedError

    def processors(self, device: Device) -> int:
        """Multiprocessors of a GPU."""
        return self._cuda.processors(device.index)

    def allocate(self, device: Device, nbytes: int) -> Memory:
        """New memory, all zero bytes."""
        with self._cuda.on(device.index):
            address, owner = self._cuda.allocate(nbytes)
        return Memory(device, address, nbytes, owner)

    def upload(self, memory: Memory, offset: int, data: NDArray[Any], stream: int | None = None) -> None:
        """Copy a contiguous host array into the memory, after what the stream holds; done when it returns."""
        with self._cuda.on(memory.device.index):
            self._cuda.exchange(memory.address + offset, data.ctypes.data, data.nbytes, stream)

    def download(self, memory: Memory, offset: int, nbytes: int, stream: int | None = None) -> NDArray[np.uint8]:
        """Copy bytes out of the memory, after what the stream holds."""
        out = np.empty(nbytes, np.uint8)
        with self._cuda.on(memory.device.index):
            self._cuda.exchange(out.ctypes.data, memory.address + offset, nbytes, stream)
        return out

    def check_stream(self, device: Device, stream: int | None) -> None:
        """Nothing, if the stream is not being captured."""
        with self._cuda.on(device.index):
            self._cuda.refuse_capture(self._cuda.stream(stream))

    def load(self, launches: Sequence[Launch], device: Device) -> GpuProgram:
        """Compile what the launches need and bring their tables to the device."""
        with self._cuda.on(device.index):
            functions = [self._function(launch, device.index) for launch in launches]
        return GpuProgram(self, self._cuda, launches, functions, device)

    def _function(self, launch: Launch, device: int) -> Any:
        vectors = vectors_of(launch, self.policy)
        key = (device, launch.specialization, vectors, launch.block)
        # Two threads that make their first step at once must not load a module twice.
        with self._lock:
            if key not in self._functions:
                symbol, binary = self.compiled(launch, vectors, self._cuda.capability(device))
                self._functions[key] = self._cuda.function(binary, symbol)
            return self._functions[key]


class GpuProgram:
    """Launches of one device: tables and coefficients at fixed addresses, so that the kernels' arguments never change."""

    def __init__(
        self,
        engine: GpuEngine[Any],
        cuda: Binding,
        launches: Sequence[Launch],
        functions: Sequence[Any],
        device: Device,
    ) -> None:
        self._cuda = cuda
        self._device = device
        self._launches = tuple(launches)
        self._tables = [engine.allocate(device, table_bytes(launch)) for launch in launches]
        self._rows = rows_needed(launches)
        self._coefficients = {
            working: engine.allocate(device, rows * ROW_WORDS * format_named(working).itemsize)
            for working, rows in self._rows.items()
        }
        for launch, memory in zip(launches, self._tables, strict=True):
            if launch.table is not None:
                engine.upload(memory, 0, launch.table.words)
        self._calls = [
            Call(
                function,
                launch.grid,
                launch.block,
                arguments(launch, memory.address, self._coefficients[launch.specialization.working.name].address),
            )
            for launch, function, memory in zip(launches, functions, self._tables, strict=True)
        ]
        with cuda.on(device.index):
            self._staging = Staging(cuda, staging_bytes(launches))

    def run(self, coefficients: Coefficients, stream: int | None = None) -> None:
        """Run every launch once."""
        cuda = self._cuda
        with cuda.on(self._device.index):
            stream = cuda.stream(stream)
            cuda.refuse_capture(stream)
            for working, rows in self._rows.items():
                self._staging.send(coefficients[working][:rows], self._coefficients[working].address, stream)
            for call in self._calls:
                cuda.launch(call, stream)
            self._staging.end_step()

    def rebind(self, launch: int, role: int, stream: int | None = None) -> None:
        """Send one role's row of pointers of a table, in the order of the stream."""
        table = self._launches[launch].table
        if table is None:
            raise ValueError(f"launch {launch} has no table to take pointers from")
        with self._cuda.on(self._device.index):
            to = self._tables[launch].address + table.pointer_words(role).start * table.words.itemsize
            self._staging.send(table.pointers[role], to, self._cuda.stream(stream))


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


def vectors_of(launch: Launch, policy: Policy) -> int:
    """Vectors that a thread loads before it computes with the first; the flat family's grid already says how many."""
    if launch.table is None:
        return launch.chunk // (launch.block * launch.specialization.lanes)
    return policy.vectors


def arguments(launch: Launch, table: int, coefficients: int) -> tuple[int, ...]:
    """A kernel's arguments, in the order of its parameters in ``flat.cu``, ``multi_tensor.cu`` and ``cuda.py``.

    Args:
        launch: The kernel call.
        table: The address of its table on the device; for the flat family none is needed.
        coefficients: The address of the rows of its working format.
    """
    if launch.table is None:
        (task,) = launch.tasks
        row = coefficients + task.row * ROW_WORDS * launch.specialization.working.itemsize
        return (*task.pointers, task.size, row)
    return (table, launch.table.segments, launch.table.chunks, launch.chunk, coefficients)


def table_bytes(launch: Launch) -> int:
    """Bytes of a launch's table."""
    return 0 if launch.table is None else launch.table.words.nbytes


def rows_needed(launches: Sequence[Launch]) -> dict[str, int]:
    """For each working format's name, how many rows of coefficients the launches refer to."""
    rows: dict[str, int] = {}
    for launch in launches:
        working = launch.specialization.working.name
        rows[working] = max(rows.get(working, 0), *(task.row + 1 for task in launch.tasks))
    return rows


def staging_bytes(launches: Sequence[Launch]) -> int:
    """All that a step sends as a rule: the coefficients, and the gradients' pointers where they are allocated anew each time."""
    # Each array begins on 16 bytes, hence the share beyond the bare words.
    coefficients = sum(
        rows * ROW_WORDS * format_named(working).itemsize for working, rows in rows_needed(launches).items()
    )
    pointers = sum(8 * launch.table.segments + 8 for launch in launches if launch.table is not None)
    return coefficients + pointers
