"""From a kernel in Python to machine code: Numba, NVVM and the linker, and a cache on disk.

None of it needs a GPU or a driver. Compiled kernels are kept in the cache folder as machine code: Numba's own cache cannot hold them,
since it knows a kernel by what its closure contains, and device functions there are new in each process.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files

from .. import cache as disk
from ..formats import Format
from ..plan import Specialization
from . import CompileError

Capability = tuple[int, int]
"""A compute capability, such as ``(9, 0)``."""

_COMPILERS = (
    "numba", "numba-cuda", "llvmlite", "cuda-core", "cuda-bindings",
    "nvidia-cuda-nvcc-cu12", "nvidia-nvvm", "nvidia-nvjitlink-cu12", "nvidia-nvjitlink",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A kernel to compile.

    Attributes:
        name: What to call it.
        make: Makes its Python function, all of whose arguments are 64-bit integers: addresses and counts.
        threads: Threads in a block, at most.
        vectors: Vectors that a thread loads before it computes with the first, where that is left open.
        blocks: Blocks that a multiprocessor should have registers for.
    """

    name: str
    make: Callable[[], Callable[..., None]]
    threads: int
    vectors: int = 1
    blocks: int = 1


def kernel_source(kind: Specialization, vectors: int, threads: int) -> Source:
    """An update kernel."""

    def make() -> Callable[..., None]:
        from ..kernels.cuda import make_kernel

        return make_kernel(kind, vectors)

    return Source(kind.name, make, threads, vectors)


def prologue_source(rule: str, threads: int) -> Source:
    """The kernel that a step of this rule begins with."""

    def make() -> Callable[..., None]:
        from ..kernels.cuda_prologue import make_prologue

        return make_prologue(rule)

    # What a thread has in flight leaves room for two blocks of 256 threads, not for three. It must be said: left to itself the compiler
    # takes more registers than it needs, and one block by itself cannot load while it computes.
    return Source(f"{rule}_prologue", make, threads, blocks=2)


def coalesce_source(values_format: Format, working: Format, threads: int) -> Source:
    """The kernel that sums a gradient's rows of the same number."""

    def make() -> Callable[..., None]:
        from ..kernels.cuda_rows import make_coalesce

        return make_coalesce(values_format, working)

    return Source(f"coalesce_{values_format}_{working}", make, threads)


@cache
def compile_kernel(kind: Specialization, vectors: int, threads: int, capability: Capability) -> tuple[str, bytes]:
    """The symbol and the machine code of an update kernel, from the cache folder, or compiled now and kept there.

    Args:
        kind: What to compile.
        vectors: Vectors that a thread loads before it computes with the first.
        threads: Threads in a block, at most.
        capability: The compute capability of the device.

    Raises:
        CompileError: If Numba or the linker refuses it.
    """
    return _compiled(kernel_source(kind, vectors, threads), capability)


@cache
def compile_prologue(rule: str, threads: int, capability: Capability) -> tuple[str, bytes]:
    """The symbol and the machine code of the kernel that a step of this rule begins with; see `compile_kernel`."""
    return _compiled(prologue_source(rule, threads), capability)


@cache
def compile_coalesce(values_format: Format, working: Format, threads: int, capability: Capability) -> tuple[str, bytes]:
    """The symbol and the machine code of the kernel that sums a gradient's rows of the same number; see `compile_kernel`."""
    return _compiled(coalesce_source(values_format, working, threads), capability)


def _compiled(source: Source, capability: Capability) -> tuple[str, bytes]:
    geometry = (str(number) for number in (source.threads, source.vectors, source.blocks))
    key = _digest(source.name, *geometry, _architecture(capability), *_sources(), *_versions())
    place = f"{source.name}-{key}.numba.cubin"
    entry = disk.read(place)
    if entry is not None:
        symbol, _, binary = entry.partition(b"\n")
        return symbol.decode(), binary
    text, ptx = compile_ptx(source, capability)
    binary = link(ptx, capability)
    disk.write(place, text.encode() + b"\n" + binary)
    return text, binary


def compile_ptx(source: Source, capability: Capability) -> tuple[str, str]:
    """A kernel's symbol and PTX, compiled now.

    Raises:
        CompileError: If Numba refuses it.
    """
    from numba import cuda

    kernel = source.make()
    signature = f"void({', '.join(['int64'] * len(inspect.signature(kernel).parameters))})"
    bounds = (source.threads, source.blocks)
    try:
        ptx, _ = cuda.compile(kernel, signature, device=False, abi="numba", cc=capability, launch_bounds=bounds)
    except Exception as error:
        raise CompileError(f"Numba could not compile {source.name} for {_architecture(capability)}: {error}") from error
    # The only entry of its module; its name is mangled with all that Numba knows of it.
    return ptx.split(".entry ")[1].split("(")[0].strip(), ptx


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


def package_version(name: str) -> str:
    """The version of an installed package, in words where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


def _architecture(capability: Capability) -> str:
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
    names = ("formats.py", "layout.py", "plan.py", "prologue.py", "engines/nvvm.py")
    package = [files("gpu_adam") / name for name in names]
    return tuple(
        entry.read_text(encoding="utf-8") for entry in (*sorted(kernels, key=lambda entry: entry.name), *package)
    )


@cache
def _versions() -> tuple[str, ...]:
    from numba.cuda import runtime

    return (*(f"{name} {package_version(name)}" for name in _COMPILERS), f"toolkit {runtime.get_version()}")
