"""The CuPy engine: the CUDA C++ kernels, in CuPy's memory and on CuPy's current stream.

CuPy serves as the binding to CUDA's runtime and driver. It compiles nothing here (see `gpu_adam.engines.nvrtc`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import EngineUnavailable, driver, nvrtc
from .gpu import GpuEngine
from .gpu_binding import Call
from .gpu_kernels import Kernel
from .staging import Event

_OUT_OF_MEMORY = 2
"""``cudaErrorMemoryAllocation``."""


@cache
def engine() -> CupyEngine:
    """The CuPy engine.

    Raises:
        EngineUnavailable: If it cannot run here; the message says why and names the remedy.
    """
    found = driver.find()
    try:
        import cupy
    except ModuleNotFoundError as error:
        # What CuPy itself lacks is not told apart: the command is the same.
        raise EngineUnavailable(f"CuPy is not installed ({error}): {driver.remedy()}") from error
    except ImportError as error:
        # CuPy wraps the error in a page of advice.
        raise EngineUnavailable(f"CuPy cannot be imported ({error.__cause__ or error}): {driver.remedy()}") from error
    runtime = cupy.cuda.runtime
    if runtime.is_hip:
        raise EngineUnavailable(f"this CuPy is built for AMD's ROCm, the kernels for CUDA: {driver.remedy()}")
    found.require(f"CuPy {cupy.__version__}", runtime.runtimeGetVersion() // 1000)
    found.require(f"NVRTC {'.'.join(map(str, nvrtc.version()))}", nvrtc.version()[0])
    try:
        runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise EngineUnavailable(f"CuPy {cupy.__version__} cannot use {found} ({error}): {driver.remedy()}") from error
    return CupyEngine(CupyBinding(cupy))


class CupyEngine(GpuEngine["CupyBinding"]):
    """Works in the memory of NVIDIA GPUs; see `gpu_adam.engines.Engine`."""

    name = "cupy"

    def compiled(self, kernel: Kernel, capability: int) -> tuple[str, bytes]:
        """The symbol and the machine code of a kernel."""
        code = nvrtc.compile_kernel(kernel, capability)
        return code.symbol, code.binary


@dataclass(frozen=True)
class CupyEvent:
    """See `gpu_adam.engines.staging.Event`."""

    runtime: Any
    event: Any

    def record(self, stream: int) -> None:
        """Mark this place in the stream."""
        self.runtime.eventRecord(self.event.ptr, stream)

    def synchronize(self) -> None:
        """Have the host wait until the place is reached."""
        self.runtime.eventSynchronize(self.event.ptr)

    def hold(self, stream: int) -> None:
        """Have what follows in ``stream`` wait until the place is reached."""
        self.runtime.streamWaitEvent(stream, self.event.ptr)


@dataclass(frozen=True)
class CupyGraph:
    """See `gpu_adam.engines.gpu_binding.Graph`."""

    runtime: Any
    graph: Any

    def launch(self, stream: int) -> None:
        """Queue all of it."""
        # The graph's own method wants a stream of CuPy's.
        self.runtime.graphLaunch(self.graph.graphExec, stream)


class CupyBinding:
    """CUDA as CuPy offers it, every call checked; see `gpu_adam.engines.gpu_binding.Binding`."""

    def __init__(self, cupy: Any) -> None:
        self._cuda = cupy.cuda
        self._runtime = cupy.cuda.runtime
        self._driver = cupy.cuda.driver
        self._free_pool = cupy.get_default_memory_pool().free_all_blocks

    @contextmanager
    def on(self, device: int) -> Iterator[None]:
        """Make a device current for a while."""
        before = self._runtime.getDevice()
        if before == device:
            yield
            return
        self._runtime.setDevice(device)
        try:
            yield
        finally:
            self._runtime.setDevice(before)

    def processors(self, device: int) -> int:
        """Multiprocessors of a device."""
        return int(self._runtime.deviceGetAttribute(self._runtime.cudaDevAttrMultiProcessorCount, device))

    def capability(self, device: int) -> int:
        """Ten times the compute capability of a device."""
        return int(self._cuda.Device(device).compute_capability)

    def stream(self, stream: int | None) -> int:
        """The handle of the stream to work on: CuPy's current one unless another is given."""
        return self._cuda.get_current_stream().ptr if stream is None else stream

    def is_capturing(self, stream: int) -> bool:
        """Whether the stream is being captured in a graph."""
        return bool(self._runtime.streamIsCapturing(stream))

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        """New zeroed memory on the current device: its address, and what keeps it alive."""
        # Not from CuPy's pool, which gives freed memory out again in the order of the stream that it was taken on, while a kernel on
        # another stream may still be using it; cudaFree waits for that.
        nbytes = max(nbytes, 1)
        try:
            memory = self._cuda.Memory(nbytes)
        except self._runtime.CUDARuntimeError as error:
            if error.status != _OUT_OF_MEMORY:
                raise
            # What the pools hold and nobody uses may be enough.
            self._free_pool()
            if "torch" in sys.modules:
                sys.modules["torch"].cuda.empty_cache()
            memory = self._cuda.Memory(nbytes)
        self._runtime.memset(memory.ptr, 0, nbytes)
        # The caller's stream need not wait for the default stream that the zeros are written on.
        self._runtime.streamSynchronize(0)
        return memory.ptr, memory

    def wait(self) -> None:
        """Have the host wait for all that is queued on the current device."""
        self._runtime.deviceSynchronize()

    def exchange(self, to: int, source: int, nbytes: int, stream: int | None) -> None:
        """Copy between host and device after all that is queued on the device, and wait for it."""
        # A step may still be running on another stream, and this is rare: state dicts, tables.
        self.wait()
        stream = self.stream(stream)
        self.copy(to, source, nbytes, stream)
        self._runtime.streamSynchronize(stream)

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Page-locked host memory; the array keeps it alive."""
        # Not from CuPy's pool either, for the same reason.
        nbytes = max(nbytes, 1)
        memory = self._cuda.PinnedMemoryPointer(self._cuda.PinnedMemory(nbytes), 0)
        return np.frombuffer(memory, np.uint8, nbytes)

    def event(self) -> Event:
        """A new event."""
        return CupyEvent(self._runtime, self._cuda.Event(disable_timing=True))

    def copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        """Queue a copy between any device's memory and page-locked host memory, in any direction."""
        self._runtime.memcpyAsync(to, source, nbytes, self._runtime.memcpyDefault, stream)

    def function(self, binary: bytes, symbol: str) -> Any:
        """A kernel of a binary, loaded on the current device; it keeps its module alive."""
        module = self._cuda.function.Module()
        module.load(binary)
        return module.get_function(symbol)

    def launch(self, call: Call, stream: int) -> None:
        """Queue a kernel call."""
        # CuPy's own Function.__call__ converts every argument again in every call.
        self._driver.launchKernel(call.function.ptr, call.grid, 1, 1, call.block, 1, 1, 0, stream, call.parameters, 0)

    def capture(self, work: Callable[[int], None]) -> CupyGraph:
        """What ``work`` queues on the stream that it is handed, as a graph; none of it runs."""
        stream = self._cuda.Stream(non_blocking=True)
        stream.begin_capture(self._runtime.streamCaptureModeThreadLocal)
        try:
            work(stream.ptr)
        finally:
            graph = stream.end_capture()
        return CupyGraph(self._runtime, graph)
