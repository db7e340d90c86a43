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

from gpu_adam.engines.nvrtc import Instance

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels"
FLAGS = (
    "-std=c++17",
    "-fPIC",
    # The compiler must choose no contraction, as NVRTC is told to choose none.
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    f"-I{KERNELS}",
    "-include",
    str(HERE / "cuda_stand_in.h"),
)
FAST = ("-O2",)
SANITIZED = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
UNITS = 4
"""Files that the instances are dealt out to, so that every core compiles."""

missing = None if shutil.which("g++") else "g++ was not found"


def symbol(kernel: Instance) -> str:
    """The name of the C function that launches a kernel."""
    return f"{kernel.specialization.name}_{kernel.threads}x{kernel.vectors}"


def build(instances: Sequence[Instance], flags: Sequence[str], folder: Path) -> Path:
    """A shared library with a C function for each kernel, built once for each state of the sources."""
    units = [
        "".join(f'#include "{name}"\n' for name in sorted({kernel.source for kernel in instances}))
        + "".join(f"STAND_IN_KERNEL({symbol(kernel)}, {kernel.expression})\n" for kernel in instances[k::UNITS])
        for k in range(UNITS)
    ]
    units.append((HERE / "conversions.cpp").read_text())
    digest = sha256(repr((units, FLAGS, flags)).encode())
    for file in sorted([*KERNELS.glob("*.cu*"), HERE / "cuda_stand_in.h"]):
        digest.update(file.read_bytes())
    library = folder / f"kernels-{digest.hexdigest()[:16]}.so"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        if not library.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = list(
                    pool.map(lambda k: _compile(units[k], Path(scratch) / f"{k}.cpp", flags), range(len(units)))
                )
                _run("g++", "-shared", *flags, *map(str, objects), "-o", str(Path(scratch) / "all.so"))
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
    _run("g++", *FLAGS, *flags, "-c", str(file), "-o", str(file.with_suffix(".o")))
    return file.with_suffix(".o")


def _run(*command: str) -> None:
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
