"""The ``numba`` engine: the Numba CUDA kernels, for people without CuPy.

Numba compiles; launches and copies go to the driver directly, with arguments that are laid out once, because Numba's own launch takes
them apart again each time. So do memory, events and contexts (see `gpu_adam.engines.cuda.driver_binding`). Numba's compiler is in
`nvvm.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from weakref import finalize

import numpy as np

from ...cuda import driver
from ...cuda.streams import numba_stream
from ...errors import EngineUnavailable
from ...kernels.specialization import Kernel
from ..compile.fingerprint import package_version
from ..compile.nvvm import compile_kernel, numba_cuda
from .binding import Call
from .driver_binding import DriverBinding
from .engine import GpuEngine


@cache
def engine() -> NumbaEngine:
    """The Numba engine.

    Raises:
        EngineUnavailable: If it cannot run here; the message says why and names the remedy.
    """
    if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0":
        raise EngineUnavailable("NUMBA_ENABLE_CUDASIM is set, and the simulator has no GPU's memory: unset it")
    found = driver.find()
    _require_packages()
    _require_compiler(found)
    return NumbaEngine(NumbaBinding())


class NumbaEngine(GpuEngine["NumbaBinding"]):
    """Works in the memory of NVIDIA GPUs; see `gpu_adam.engines.Engine`."""

    name = "numba"

    def compiled(self, kernel: Kernel, capability: int) -> tuple[str, bytes]:
        """The symbol and the machine code of a kernel."""
        generation = int(package_version("cuda-bindings").partition(".")[0])
        if capability < driver.LEAST_CAPABILITY.get(generation, 0):
            # Only beside a newer GPU: for a lone one the engine is not even made.
            raise EngineUnavailable(
                f"the compilers of CUDA {generation} do not know compute capability {capability / 10}: {driver.remedy(12)}"
            )
        return compile_kernel(kernel, divmod(capability, 10))


class NumbaGraph:
    """See `gpu_adam.engines.cuda.binding.Graph`."""

    def __init__(self, graph: Any) -> None:
        self._executable = _driver("cuGraphInstantiate", graph, 0)
        # Not through `_driver`: at the end of the process there may be no driver to complain.
        finalize(self, _bindings().cuGraphExecDestroy, self._executable)

    def launch(self, stream: int) -> None:
        """Queue all of it."""
        _driver("cuGraphLaunch", self._executable, stream)


class NumbaBinding(DriverBinding):
    """CUDA as ``cuda.bindings`` offers it, every call checked; see `gpu_adam.engines.cuda.binding.Binding`."""

    def stream(self, stream: int | None) -> int:
        """The handle of the stream to work on: the default one, which Numba's launches take too, unless another is given."""
        return stream or numba_stream()

    def is_capturing(self, stream: int) -> bool:
        """Whether the stream is being captured in a graph."""
        return int(_driver("cuStreamIsCapturing", stream)) != 0

    def wait(self) -> None:
        """Have the host wait for all that is queued on the current device."""
        _driver("cuCtxSynchronize")

    def exchange(self, to: int, source: int, nbytes: int, stream: int | None) -> None:
        """Copy between host and device after all that is queued on the device, and wait for it."""
        # A step may still be running on another stream, and this is rare: state dicts, tables.
        self.wait()
        self.copy(to, source, nbytes, self.stream(stream))
        _driver("cuStreamSynchronize", self.stream(stream))

    def copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        """Queue a copy between any device's memory and page-locked host memory, in any direction."""
        _driver("cuMemcpyAsync", to, source, nbytes, stream)

    def function(self, binary: bytes, symbol: str) -> Any:
        """A kernel of a binary, loaded on the current device for as long as the process lives."""
        return _driver("cuModuleGetFunction", _driver("cuModuleLoadData", binary), symbol.encode())

    def launch(self, call: Call, stream: int) -> None:
        """Queue a kernel call."""
        _driver("cuLaunchKernel", call.function, call.grid, 1, 1, call.block, 1, 1, 0, stream, call.parameters, 0)

    def capture(self, work: Callable[[int], None]) -> NumbaGraph:
        """What ``work`` queues on the stream that it is handed, as a graph; none of it runs."""
        driver = _bindings()
        # Numba's own streams wait for the default one, which may not be mixed with a capture.
        stream = _driver("cuStreamCreate", int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        try:
            _driver("cuStreamBeginCapture", stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            try:
                work(int(stream))
            finally:
                graph = _driver("cuStreamEndCapture", stream)
        finally:
            _driver("cuStreamDestroy", stream)
        try:
            return NumbaGraph(graph)
        finally:
            _driver("cuGraphDestroy", graph)


def _driver(name: str, *arguments: Any) -> Any:
    """Call a function of the driver; what it returns besides its status.

    Raises:
        RuntimeError: If the status is not success.
    """
    driver = _bindings()
    status, *values = getattr(driver, name)(*arguments)
    if int(status) != 0:
        _, message = driver.cuGetErrorString(status)
        raise RuntimeError(f"{name} failed: {status.name} ({(message or b'').decode()})")
    return values[0] if values else None


@cache
def _bindings() -> Any:
    from cuda.bindings import driver

    return driver


def _require_packages() -> None:
    """Raise `EngineUnavailable` unless Numba's CUDA target can be imported."""
    # Numba brings an old CUDA target of its own, which cannot compile these kernels.
    if find_spec("numba_cuda") is None:
        raise EngineUnavailable(f"numba-cuda is not installed: {driver.remedy()}")
    try:
        numba_cuda()
        import_module("cuda.bindings.driver")
        # Older releases have it in `cuda.core.experimental`.
        _ = import_module("cuda.core").Linker
    except ImportError as error:
        raise EngineUnavailable(
            f"numba-cuda {package_version('numba-cuda')} cannot be imported ({error}): {driver.remedy()}"
        ) from error
    except AttributeError as error:
        raise EngineUnavailable(
            f"numba-cuda {package_version('numba-cuda')}, Numba {package_version('numba')}, NumPy {np.__version__} and cuda-core "
            f"{package_version('cuda-core')} do not fit together ({error}): {driver.remedy()} chooses versions that do"
        ) from error


def _require_compiler(found: driver.Driver) -> None:
    """Raise `EngineUnavailable` unless Numba can use the driver and compile for it."""
    from cuda.bindings import nvjitlink
    from numba import cuda
    from numba.cuda.cudadrv.nvvm import NVVM

    bindings = package_version("cuda-bindings")
    found.require(f"cuda-bindings {bindings}", int(bindings.partition(".")[0]))
    try:
        NVVM()
        linker = nvjitlink.version()
    except Exception as error:
        raise EngineUnavailable(
            f"NVVM and nvJitLink, Numba's compiler for GPUs, cannot be loaded ({error}): {driver.remedy()}"
        ) from error
    found.require(f"nvJitLink {'.'.join(map(str, linker))}", linker[0])
    if not cuda.is_available():
        raise EngineUnavailable(f"numba-cuda cannot use the driver ({cuda.cuda_error()}): {driver.remedy()}")
