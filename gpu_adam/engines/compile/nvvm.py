"""From a kernel in Python to machine code: Numba, NVVM and the linker, and a cache on disk.

None of it needs a GPU or a driver. Compiled kernels are kept in the cache folder as machine code: Numba's own cache cannot hold them,
since it knows a kernel by what its closure contains, and device functions there are new in each process.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from ...errors import CompileError
from ...kernels.abi import PROLOGUE_THREADS
from ...kernels.specialization import CoalesceKernel, Kernel, PrologueKernel, UpdateKernel
from .binaries import kept
from .fingerprint import digest, environment, file, library, package_version, settings, sources

Capability = tuple[int, int]
"""A compute capability, such as ``(9, 0)``."""

_COMPILERS = (
    "numba", "numba-cuda", "llvmlite", "cuda-core", "cuda-bindings",
    "nvidia-cuda-nvcc-cu12", "nvidia-nvvm", "nvidia-nvjitlink-cu12", "nvidia-nvjitlink",
)  # fmt: skip


def _function_of(kernel: Kernel) -> Callable[..., None]:
    """A kernel's Python function, all of whose arguments are 64-bit integers: addresses and counts."""
    # Not imported above: Numba takes its time.
    match kernel:
        case UpdateKernel(specialization, _, vectors, hint, persistent):
            from ...kernels.numba_cuda.families import make_kernel

            return make_kernel(specialization, vectors, hint, persistent)
        case PrologueKernel(rule):
            from ...kernels.numba_cuda.prologue import make_prologue

            return make_prologue(rule)
        case CoalesceKernel(values, working):
            from ...kernels.numba_cuda.sparse import make_coalesce

            return make_coalesce(values, working)


def _bounds_of(kernel: Kernel) -> tuple[int, int]:
    """Threads in a block, at most, and blocks that a multiprocessor should have registers for."""
    if isinstance(kernel, PrologueKernel):
        # What a thread has in flight leaves room for two blocks of 256 threads, not for three. It must be said: left to itself the
        # compiler takes more registers than it needs, and one block by itself cannot load while it computes.
        return PROLOGUE_THREADS, 2
    return kernel.threads, 1


@cache
def compile_kernel(kernel: Kernel, capability: Capability) -> tuple[str, bytes]:
    """The symbol and the machine code of a kernel, from the cache folder, or compiled now and kept there.

    Args:
        kernel: What to compile.
        capability: The compute capability of the device.

    Raises:
        CompileError: If Numba or the linker refuses it.
    """
    more = (kernel.vectors, kernel.hint, kernel.persistent) if isinstance(kernel, UpdateKernel) else ()
    geometry = map(str, (*_bounds_of(kernel), *more))

    def build() -> tuple[str, bytes]:
        symbol, ptx = compile_ptx(kernel, capability)
        return symbol, link(ptx, capability)

    if kernel.rule is not None and not kernel.rule.is_shipped:
        # Its text may use anything, so no key would be sure to change with it.
        return build()
    parts = (kernel.name, *geometry, _architecture(capability), *_sources(), *_versions(), *_settings())
    return kept(f"{kernel.name}-{digest(parts)}.numba.cubin", build)


def compile_ptx(kernel: Kernel, capability: Capability) -> tuple[str, str]:
    """A kernel's symbol and PTX, compiled now.

    Raises:
        CompileError: If Numba refuses it.
    """
    cuda = numba_cuda()
    function = _function_of(kernel)
    signature = f"void({', '.join(['int64'] * len(inspect.signature(function).parameters))})"
    bounds = _bounds_of(kernel)
    try:
        ptx, _ = cuda.compile(function, signature, device=False, abi="numba", cc=capability, launch_bounds=bounds)
    except Exception as error:
        raise CompileError(f"Numba could not compile {kernel.name} for {_architecture(capability)}: {error}") from error
    # The only entry of its module; its name is mangled with all that Numba knows of it.
    return ptx.split(".entry ")[1].split("(")[0].strip(), ptx


def numba_cuda() -> Any:
    """``numba.cuda``, with the part of it that the first compilation imports."""
    with _row_stack_lent():
        import_module("numba.cuda.np.arrayobj")
    return import_module("numba.cuda")


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


def link(ptx: str, capability: Capability) -> bytes:
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


def _architecture(capability: Capability) -> str:
    return f"sm_{capability[0]}{capability[1]}"


def _sources() -> tuple[str, ...]:
    return sources("engines/compile/nvvm.py")


@cache
def _versions() -> tuple[str, ...]:
    from numba.cuda import runtime
    from numba.cuda.cudadrv.libs import get_libdevice

    packages = (f"{name} {package_version(name)}" for name in _COMPILERS)
    libraries = (library("nvvm"), library("nvJitLink"), file(get_libdevice()))
    return (*packages, f"toolkit {runtime.get_version()}", *libraries)


def _settings() -> tuple[str, ...]:
    from numba.cuda.core import config

    return (*settings(config), *environment("NUMBA_", "LLVMLITE_", "NVVM_", "LIBNVVM_", "NVJITLINK_"))
