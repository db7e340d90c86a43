"""The ``numba`` engine: the Numba CUDA kernels, for people without CuPy.

Numba compiles and gives memory; launches and copies go to the driver directly, with arguments that are laid out once, because
Numba's own launch takes them apart again each time. Compiled kernels are kept in the cache folder as machine code: Numba's own cache
cannot hold them, since it knows a kernel by what its closure contains, and device functions there are new in each process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import cache as disk
from ..plan import Launch, Specialization
from . import CompileError, EngineUnavailable
from .gpu import Call, GpuEngine
from .staging import Event

_INSTALL = "pip install gpu_adam[cuda12] or gpu_adam[cuda13], by the CUDA version of your driver"
_COMPILERS = (
    "numba", "numba-cuda", "llvmlite", "cuda-core", "cuda-bindings",
    "nvidia-cuda-nvcc-cu12", "nvidia-nvvm", "nvidia-nvjitlink-cu12", "nvidia-nvjitlink",
)  # fmt: skip


@cache
def engine() -> NumbaEngine:
    """The Numba engine.

    Raises:
        EngineUnavailable: If it cannot run here; the message says why and names the remedy.
    """
    _require_packages()
    _require_gpu()
    return NumbaEngine(NumbaBinding())


class NumbaEngine(GpuEngine["NumbaBinding"]):
    """Works in the memory of NVIDIA GPUs; see `gpu_adam.engines.Engine`."""

    name = "numba"

    def compiled(self, launch: Launch, vectors: int, capability: int) -> tuple[str, bytes]:
        """The symbol and the machine code of a launch's kernel."""
        return compile_kernel(launch.specialization, vectors, launch.block, divmod(capability, 10))


@dataclass(frozen=True)
class NumbaEvent:
    """See `gpu_adam.engines.staging.Event`."""

    event: Any

    def record(self, stream: int) -> None:
        """Mark this place in the stream."""
        _driver("cuEventRecord", self.event.handle, stream)

    def synchronize(self) -> None:
        """Have the host wait until the place is reached."""
        _driver("cuEventSynchronize", self.event.handle)

    def hold(self, stream: int) -> None:
        """Have what follows in ``stream`` wait until the place is reached."""
        _driver("cuStreamWaitEvent", stream, self.event.handle, 0)


class NumbaBinding:
    """CUDA as Numba and ``cuda.bindings`` offer it, every call checked; see `gpu_adam.engines.gpu.Binding`."""

    def __init__(self) -> None:
        from numba import cuda

        self._cuda = cuda

    def on(self, device: int) -> AbstractContextManager[Any]:
        """Make a device current for a while."""
        gpu: AbstractContextManager[Any] = self._cuda.gpus[device]
        return gpu

    def processors(self, device: int) -> int:
        """Multiprocessors of a device."""
        return int(self._cuda.gpus[device].MULTIPROCESSOR_COUNT)

    def capability(self, device: int) -> int:
        """Ten times the compute capability of a device."""
        major, minor = self._cuda.gpus[device].compute_capability[:2]
        return 10 * int(major) + int(minor)

    def stream(self, stream: int | None) -> int:
        """The handle of the stream to work on: the default one, which Numba's launches take too, unless another is given."""
        return stream or 0

    def refuse_capture(self, stream: int) -> None:
        """Raise if the stream is being captured: a graph would repeat this step's coefficients for ever."""
        if int(_driver("cuStreamIsCapturing", stream)) != 0:
            raise RuntimeError(
                "step() cannot be captured in a CUDA graph: the graph would repeat this step's coefficients for ever"
            )

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        """New zeroed memory on the current device: its address, and what keeps it alive."""
        nbytes = max(nbytes, 1)
        owner = self._cuda.device_array(nbytes, np.uint8)
        address = int(owner.__cuda_array_interface__["data"][0])
        _driver("cuMemsetD8Async", address, 0, nbytes, 0)
        # The caller's stream need not wait for the default stream that the zeros are written on.
        _driver("cuStreamSynchronize", 0)
        return address, owner

    def exchange(self, to: int, source: int, nbytes: int, stream: int | None) -> None:
        """Copy between host and device after all that is queued on the device, and wait for it."""
        # A step may still be running on another stream, and this is rare: state dicts, tables.
        _driver("cuCtxSynchronize")
        _driver("cuMemcpyAsync", to, source, nbytes, self.stream(stream))
        _driver("cuStreamSynchronize", self.stream(stream))

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Page-locked host memory; the array keeps it alive."""
        memory: NDArray[np.uint8] = self._cuda.pinned_array(max(nbytes, 1), np.uint8)
        return memory

    def event(self) -> Event:
        """A new event."""
        return NumbaEvent(self._cuda.event(timing=False))

    def copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        """Queue a copy from page-locked host memory to the device."""
        _driver("cuMemcpyHtoDAsync", to, source, nbytes, stream)

    def function(self, binary: bytes, symbol: str) -> Any:
        """A kernel of a binary, loaded on the current device for as long as the process lives."""
        return _driver("cuModuleGetFunction", _driver("cuModuleLoadData", binary), symbol.encode())

    def launch(self, call: Call, stream: int) -> None:
        """Queue a kernel call."""
        _driver("cuLaunchKernel", call.function, call.grid, 1, 1, call.block, 1, 1, 0, stream, call.parameters, 0)


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


def compile_ptx(kind: Specialization, vectors: int, threads: int, capability: tuple[int, int]) -> tuple[str, str]:
    """A kernel's symbol and PTX, compiled now. It needs neither a GPU nor a driver.

    Args:
        kind: What to compile.
        vectors: Vectors that a thread loads before it computes with the first.
        threads: Threads in a block, at most.
        capability: The compute capability, such as ``(9, 0)``.

    Raises:
        CompileError: If Numba refuses it.
    """
    from numba import cuda

    from ..kernels.cuda import make_kernel, signature

    try:
        ptx, _ = cuda.compile(
            make_kernel(kind, vectors), signature(kind), device=False, abi="numba", cc=capability, launch_bounds=threads
        )
    except Exception as error:
        raise CompileError(f"Numba could not compile {kind.name} for {_architecture(capability)}: {error}") from error
    # The only entry of its module; its name is mangled with all that Numba knows of it.
    return ptx.split(".entry ")[1].split("(")[0].strip(), ptx


def link(ptx: str, capability: tuple[int, int]) -> bytes:
    """The machine code of PTX. The linker is the compiler's sibling, so that an older driver need not know the PTX of a newer compiler.

    Raises:
        CompileError: If the linker refuses it.
    """
    from cuda.core import Linker, LinkerOptions, ObjectCode

    architecture = _architecture(capability)
    try:
        linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=LinkerOptions(arch=architecture))
        return bytes(linker.link("cubin").code)
    except Exception as error:
        raise CompileError(f"PTX could not be linked for {architecture}: {error}") from error


@cache
def compile_kernel(kind: Specialization, vectors: int, threads: int, capability: tuple[int, int]) -> tuple[str, bytes]:
    """A kernel's symbol and machine code, from the cache folder, or compiled now and kept there."""
    key = _digest(kind.name, str(vectors), str(threads), _architecture(capability), *_sources(), *_versions())
    name = f"{kind.name}-{key}.numba.cubin"
    entry = disk.read(name)
    if entry is not None:
        symbol, _, binary = entry.partition(b"\n")
        return symbol.decode(), binary
    text, ptx = compile_ptx(kind, vectors, threads, capability)
    binary = link(ptx, capability)
    disk.write(name, text.encode() + b"\n" + binary)
    return text, binary


def _architecture(capability: tuple[int, int]) -> str:
    return f"sm_{capability[0]}{capability[1]}"


def _digest(*parts: str) -> str:
    digest = sha256()
    for part in parts:
        # With their lengths, so that no two lists of parts run together into the same text.
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:32]


@cache
def _sources() -> tuple[str, ...]:
    """The texts that a kernel is made of: the kernels' own, and the modules whose tables and sizes they go by."""
    kernels = [entry for entry in files("gpu_adam.kernels").iterdir() if entry.name.endswith(".py")]
    package = [files("gpu_adam") / name for name in ("formats.py", "layout.py", "plan.py", "engines/numba.py")]
    return tuple(
        entry.read_text(encoding="utf-8") for entry in (*sorted(kernels, key=lambda entry: entry.name), *package)
    )


@cache
def _versions() -> tuple[str, ...]:
    from numba.cuda import runtime

    return (*(f"{name} {_version(name)}" for name in _COMPILERS), f"toolkit {runtime.get_version()}")


def _require_packages() -> None:
    """Raise `EngineUnavailable` unless Numba's CUDA target can be imported."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0":
        raise EngineUnavailable("NUMBA_ENABLE_CUDASIM is set, and the simulator has no GPU's memory: unset it")
    # Numba brings an old CUDA target of its own, which cannot compile these kernels.
    if find_spec("numba_cuda") is None:
        raise EngineUnavailable(f"numba-cuda is not installed: {_INSTALL}")
    try:
        # The third is imported by the first kernel's compilation.
        for name in ("numba.cuda", "cuda.bindings.driver"):
            import_module(name)
        with _row_stack_lent():
            import_module("numba.cuda.np.arrayobj")
        # Older releases have it in `cuda.core.experimental`.
        _ = import_module("cuda.core").Linker
    except ImportError as error:
        raise EngineUnavailable(
            f"numba-cuda {_version('numba-cuda')} cannot be imported ({error}): {_INSTALL}"
        ) from error
    except AttributeError as error:
        raise EngineUnavailable(
            f"numba-cuda {_version('numba-cuda')}, NumPy {np.__version__} and cuda-core {_version('cuda-core')} do not fit together "
            f"({error}): {_INSTALL}, which chooses versions that do"
        ) from error


@contextmanager
def _row_stack_lent() -> Iterator[None]:
    """For a while ``np.row_stack``, which NumPy 2.5 removed and numba-cuda 0.30 still names where it teaches its compiler NumPy.

    It was another name of ``np.vstack``, and is taken back, so that no other code comes to rely on it.
    """
    name = "row_stack"
    if name in vars(np):
        yield
        return
    setattr(np, name, np.vstack)
    try:
        yield
    finally:
        delattr(np, name)


def _require_gpu() -> None:
    """Raise `EngineUnavailable` unless there is a GPU that Numba can use and compile for."""
    from numba import cuda
    from numba.cuda.cudadrv.nvvm import NVVM

    if not cuda.is_available():
        reason = " ".join(str(cuda.cuda_error() or "no CUDA device was found").split())
        raise EngineUnavailable(f"{reason}: it needs an NVIDIA GPU and its driver")
    try:
        NVVM()
    except Exception as error:
        raise EngineUnavailable(f"NVVM, Numba's compiler for GPUs, cannot be loaded ({error}): {_INSTALL}") from error


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"
