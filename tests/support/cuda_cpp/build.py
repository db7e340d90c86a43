"""Builds the shipped kernels with g++."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import gpu_adam.kernels
from gpu_adam.engines.compile.nvrtc import expression_of, files_of, sources
from gpu_adam.engines.processors import usable_processors
from gpu_adam.kernels.specialization import Kernel, UpdateKernel

HERE = Path(__file__).parent
KERNELS = Path(gpu_adam.kernels.__file__).parent
FLAGS = (
    "-std=c++17",
    "-fPIC",
    # The compiler must choose no contraction, as NVRTC is told to choose none.
    "-ffp-contract=off",
    # GCC 12's vectorizer drops a rounding to float that is widened again: both elements of {double(float(a)), double(float(b))} stay as
    # they were.
    "-fno-tree-vectorize",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-include",
    str(HERE / "cuda_stand_in.h"),
)
FAST = ("-O2",)
SANITIZED = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
RACES = ("-O1", "-g1", "-fsanitize=thread")
UNITS = 4
"""Files that the instances are dealt out to, so that every core compiles."""

missing = None if shutil.which("g++") else "g++ was not found"


def symbol(kernel: Kernel) -> str:
    """The name of the C function that launches a kernel."""
    if isinstance(kernel, UpdateKernel):
        grid = "_persistent" if kernel.persistent else ""
        return f"{kernel.name}_{kernel.threads}x{kernel.vectors}_{kernel.hint}{grid}"
    return kernel.name


def has_barriers(kernel: Kernel) -> bool:
    """Whether the threads of a block wait for each other."""
    return "__syncthreads" in sources()[files_of(kernel)[-1]]


def _launcher(kernel: Kernel) -> str:
    macro = "STAND_IN_KERNEL_WITH_BARRIERS" if has_barriers(kernel) else "STAND_IN_KERNEL"
    return f"{macro}({symbol(kernel)}, {expression_of(kernel)})\n"


def build(instances: Sequence[Kernel], flags: Sequence[str], folder: Path) -> Path:
    """A shared library with a C function for each kernel, built once for each state of the sources."""
    names = {name for kernel in instances for name in files_of(kernel)}
    # The rules come before the kernels.
    files = sorted(names, key=lambda name: (name.endswith(".cu"), name))
    units = [
        "".join(f'#include "{name}"\n' for name in files) + "".join(map(_launcher, instances[k::UNITS]))
        for k in range(UNITS)
    ]
    units.append((HERE / "conversions.cpp").read_text())
    digest = sha256(repr((units, sorted(sources().items()), FLAGS, flags)).encode())
    for file in sorted(HERE.glob("*.h")):
        digest.update(file.read_bytes())
    library = folder / f"kernels-{digest.hexdigest()[:16]}.so"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        if not library.exists():
            with (
                tempfile.TemporaryDirectory(dir=folder) as scratch,
                ThreadPoolExecutor(usable_processors().count) as pool,
            ):
                # What NVRTC is handed is what g++ reads, in files of the same names.
                for name, text in sources().items():
                    (Path(scratch) / name).write_text(text)
                objects = list(
                    pool.map(lambda k: _compile(units[k], Path(scratch) / f"{k}.cpp", flags), range(len(units)))
                )
                run("g++", "-shared", *flags, *map(str, objects), "-o", str(Path(scratch) / "all.so"))
                os.replace(Path(scratch) / "all.so", library)
    return library


class Library:
    """The launch functions of a built library."""

    def __init__(self, path: Path) -> None:
        self.dll = ctypes.CDLL(str(path))

    def kernel(self, symbol: str) -> Any:
        function = getattr(self.dll, symbol)
        function.argtypes = (ctypes.c_longlong, ctypes.c_int, ctypes.c_void_p)
        function.restype = None
        return function


def _compile(text: str, file: Path, flags: Sequence[str]) -> Path:
    file.write_text(text)
    run("g++", *FLAGS, f"-I{file.parent}", *flags, "-c", str(file), "-o", str(file.with_suffix(".o")))
    return file.with_suffix(".o")


def run(*command: str) -> None:
    """Run a compiler; an error shows what it said."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[:8000]}")


class locked:  # noqa: N801 - used like a function
    """A lock between processes: of pytest-xdist's workers, one builds and the others wait."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        import fcntl

        self.file = self.path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self.file.close()
