"""What the GPU engines share: all but the compiler and the library that CUDA is reached through.

An engine hands over a `Binding`, its library's way to CUDA, and says how a kernel is compiled. The tables, the coefficients and the
arguments are the same for all, since the kernels of both languages have the same parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from ...device import Device
from ...kernels.abi import ROLES
from ...kernels.specialization import CoalesceKernel, Kernel, PrologueKernel, blocks_of_rows, log2_tile
from ...plan.launches import Launch
from ...plan.policy import GPU_POLICY, Policy
from ...plan.prologue import Prologue
from ...process.uninterrupted import uninterruptedly
from .. import Memory, SumArguments
from .arguments import update_kernel
from .binding import Binding, Call
from .program import GpuProgram, staging_bytes
from .prologue import GpuPrologue
from .staging import Staging

SomeBinding = TypeVar("SomeBinding", bound=Binding)

_GRAD = ROLES.index("grad")


class GpuEngine(Generic[SomeBinding]):
    """Works in the memory of NVIDIA GPUs; see `gpu_adam.engines.Engine`."""

    name: str
    kind = "cuda"
    policy: Policy = GPU_POLICY

    def __init__(self, cuda: SomeBinding) -> None:
        self._cuda = cuda
        self._functions: dict[tuple[int, Kernel], Any] = {}
        self._lock = Lock()
        self._memories: WeakValueDictionary[int, Memory] = WeakValueDictionary()
        self._row_readers: WeakValueDictionary[int, Staging] = WeakValueDictionary()

    def compiled(self, kernel: Kernel, capability: int) -> tuple[str, bytes]:
        """The symbol and the binary of a kernel.

        Args:
            kernel: What to compile.
            capability: Ten times the device's compute capability.
        """
        raise NotImplementedError

    def multiprocessors(self, device: Device) -> int:
        """Multiprocessors of a GPU."""
        return self._cuda.multiprocessors(device.index)

    def allocate(self, device: Device, nbytes: int) -> Memory:
        """New memory, all zero bytes."""
        with self._cuda.on(device.index):
            address, owner = self._cuda.allocate(nbytes)
        memory = self._memories[address] = Memory(device, address, nbytes, owner)
        return memory

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

    def capturing(self, device: Device, stream: int | None) -> bool:
        """Whether the stream is being captured in a CUDA graph."""
        with self._cuda.on(device.index):
            return self._cuda.is_capturing(self._cuda.stream(stream))

    def coalesce(self, sums: SumArguments, stream: int | None = None) -> None:
        """Sum the rows of a gradient that have the same number, in the order of the stream."""
        memory = self._memories.get(sums.out)
        if memory is None:
            raise ValueError(f"out={sums.out:#x}: must be the address of memory that this engine has allocated")
        device = memory.device.index
        kernel = CoalesceKernel(sums.values_format, sums.working)
        tile = log2_tile(sums.width, kernel.lanes)
        with self._cuda.on(device):
            stream = self._cuda.stream(stream)
            # The last step may still be reading the last sums, on another stream.
            reader = self._row_readers.get(sums.out)
            if reader is not None:
                reader.follow(stream)
            grid = blocks_of_rows(sums.capacity, tile)
            call = Call(self._function(kernel, device), grid, kernel.threads, (*sums.arguments, tile))
            self._cuda.launch(call, stream)

    def load(
        self,
        launches: Sequence[Launch],
        device: Device,
        prologue: Prologue | None = None,
        control: Memory | None = None,
        counts: NDArray[np.int64] | None = None,
        counts_memory: Memory | None = None,
    ) -> GpuProgram:
        """Compile what the launches need and bring their tables to the device."""
        cuda = self._cuda
        with cuda.on(device.index):
            # Another program may still be running on some stream, over the same state.
            cuda.wait()
            functions = [self._function(update_kernel(launch), device.index) for launch in launches]
            staging = Staging(cuda, staging_bytes(launches, prologue))
            begin = None
            if prologue is not None:
                if control is None or counts is None:
                    raise ValueError("a prologue needs control words and step counts")
                function = self._function(PrologueKernel(prologue.rule), device.index)
                begin = GpuPrologue(self, cuda, staging, function, prologue, control, counts, counts_memory)
            program = GpuProgram(self, cuda, device, staging, launches, functions, begin)
        for launch in launches:
            if launch.specialization.family == "rows":
                self._row_readers[launch.tasks[0].pointers[_GRAD]] = staging
        return program

    def _function(self, kernel: Kernel, device: int) -> Any:
        return self._functions.get((device, kernel)) or self._loaded(kernel, device)

    @uninterruptedly
    def _loaded(self, kernel: Kernel, device: int) -> Any:
        # This thread has a current device of its own. Two threads that make their first step at once must not load a module twice.
        with self._lock, self._cuda.on(device):
            if (device, kernel) not in self._functions:
                symbol, binary = self.compiled(kernel, self._cuda.capability(device))
                self._functions[device, kernel] = self._cuda.function(binary, symbol)
            return self._functions[device, kernel]
