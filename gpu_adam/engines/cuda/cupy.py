"""The CuPy engine: the CUDA C++ kernels, on CuPy's current stream.

CuPy serves as the binding to CUDA for launches, copies and graphs. It compiles nothing here (see `gpu_adam.engines.compile.nvrtc`), and
memory, events and contexts are the driver's own (see `gpu_adam.engines.cuda.driver_binding`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ...cuda import driver
from ...errors import EngineUnavailable
from ...kernels.specialization import Kernel
from ..compile import nvrtc
from .binding import Call
from .driver_binding import DriverBinding
from .engine import GpuEngine


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
class CupyGraph:
    """See `gpu_adam.engines.cuda.binding.Graph`."""

    runtime: Any
    graph: Any

    def launch(self, stream: int) -> None:
        """Queue all of it."""
        # The graph's own method wants a stream of CuPy's.
        self.runtime.graphLaunch(self.graph.graphExec, stream)


class CupyBinding(DriverBinding):
    """CUDA as CuPy offers it, every call checked; see `gpu_adam.engines.cuda.binding.Binding`."""

    def __init__(self, cupy: Any) -> None:
        super().__init__()
        self._cuda = cupy.cuda
        self._runtime = cupy.cuda.runtime
        self._driver = cupy.cuda.driver

    def stream(self, stream: int | None) -> int:
        """The handle of the stream to work on: CuPy's current one unless another is given."""
        return self._cuda.get_current_stream().ptr if stream is None else stream

    def is_capturing(self, stream: int) -> bool:
        """Whether the stream is being captured in a graph."""
        return bool(self._runtime.streamIsCapturing(stream))

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
