"""NVIDIA's driver, asked without any package for GPUs: whether it is there, which CUDA it can run, and what to install for it.

An engine asks here first, so that what it says of a missing or unfit package names the command for the machine at hand.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from ..errors import EngineUnavailable

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
"""The driver's part in a process."""

LEAST_DRIVER = {12: 525, 13: 580}
"""For each CUDA generation that there are packages for, the first driver that runs it."""

LEAST_CAPABILITY = {12: 70, 13: 75}
"""For each of them, ten times the least compute capability: what the kernels are written for, and what CUDA 13's compilers know."""

_CUPY = {"cupy": None, "cupy-cuda11x": 11, "cupy-cuda12x": 12, "cupy-cuda13x": 13}
"""CuPy's packages, no two of which can stand side by side, and the generations of those that are built for one."""

_FOUND_FIRST = ("nvidia-cuda-nvrtc", "nvidia-nvjitlink", "nvidia-nvvm")
"""CUDA 13's libraries, which cuda-bindings takes before those of CUDA 12 even where it is itself for CUDA 12."""

_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_CONTAINERS = (Path("/.dockerenv"), Path("/run/.containerenv"))

_NO_DEVICE = 100
_REASONS = {
    3: "this process was forked from one that had used the GPU: start it with multiprocessing's 'spawn' method",
    34: f"the {LIBRARY} that was found is the stub of a CUDA toolkit and no driver: take its folder out of LD_LIBRARY_PATH",
    802: "NVIDIA's driver is not ready yet: start the host's service nvidia-fabricmanager",
    803: "NVIDIA's driver was updated while its old kernel module is loaded: restart the machine",
    804: "CUDA's compatibility library, which is for data-centre GPUs, stands before the driver's own: "
    "take the folder of cuda-compat out of LD_LIBRARY_PATH",
}  # fmt: skip
"""What the less obvious answers of ``cuInit`` mean."""

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A GPU that CUDA can see: its name, and ten times its compute capability."""

    name: str
    capability: int

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability / 10})"


@dataclass(frozen=True)
class Driver:
    """A driver that works.

    Attributes:
        release: Its own number, such as ``"535.104.05"``, where the system tells it.
        cuda: The newest CUDA version that it runs, such as ``(12, 2)``.
        gpus: What it drives.
    """

    release: str | None
    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]

    def __str__(self) -> str:
        return _called(self.release, self.cuda)

    @property
    def generation(self) -> int:
        """The newest CUDA generation that there are packages for and that the driver and a GPU can run."""
        newest = max(gpu.capability for gpu in self.gpus)
        return max(n for n in LEAST_DRIVER if n <= self.cuda[0] and newest >= LEAST_CAPABILITY[n])

    def require(self, package: str, generation: int) -> None:
        """Raise `EngineUnavailable` if a package is for a CUDA generation that cannot run here."""
        if generation <= self.generation or generation not in LEAST_DRIVER:
            return
        if generation > self.cuda[0]:
            why = f"{self} does not run"
            other = f", or update the driver to {LEAST_DRIVER[generation]} or newer"
        else:
            why = f"does not support {self.gpus[0]}"
            other = ""
        raise EngineUnavailable(f"{package} is for CUDA {generation}, which {why}: {remedy(self.generation)}{other}")


def find() -> Driver:
    """The driver.

    Raises:
        EngineUnavailable: If there is none, if it is too old for all packages, or if it sees no GPU or only such as are too old; the
            message names the remedy.
    """
    release = _release()
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise EngineUnavailable(_without_library(release, error)) from None
    version = ctypes.c_int()
    # The stub of a CUDA toolkit does not even tell a version.
    status = library.cuDriverGetVersion(ctypes.byref(version))
    cuda = version.value // 1000, version.value % 1000 // 10
    called = _called(release, cuda)
    if status == 0 and cuda[0] < min(LEAST_DRIVER):
        raise EngineUnavailable(
            f"{called} is too old: update it to {LEAST_DRIVER[12]} or newer for CUDA 12, or {LEAST_DRIVER[13]} or newer for CUDA 13"
        )
    status = status or library.cuInit(0)
    count = ctypes.c_int()
    if status == 0:
        library.cuDeviceGetCount(ctypes.byref(count))
    if status == _NO_DEVICE or (status == 0 and count.value == 0):
        raise EngineUnavailable(_without_gpu(called))
    if status:
        raise EngineUnavailable(
            _REASONS.get(status, f"{called} does not start ({_name(library, status)}): `nvidia-smi` may say why")
        )
    gpus = tuple(_gpu(library, k) for k in range(count.value))
    least = min(LEAST_CAPABILITY.values())
    if all(gpu.capability < least for gpu in gpus):
        raise EngineUnavailable(
            f"{gpus[0]} is too old: use a GPU of compute capability {least / 10} or newer, or engine='cpu'"
        )
    return Driver(release, cuda, gpus)


def remedy(generation: int | None = None, extra: str = "cuda") -> str:
    """The command that installs the GPU packages.

    Args:
        generation: The CUDA generation; by default that of the CuPy or the torch that is here, if it can run, else the driver's.
        extra: The extra's name without the generation.
    """
    newest = generation or _newest()
    generation = generation or min([*_generations_here(), newest])
    away = installed_cupy()
    if all(_CUPY[name] == generation for name in away):
        away = []
    # Otherwise all of them, the right one too: they have their files in common.
    if newest < 13:
        away += filter(_is_installed, _FOUND_FIRST)
    install = f"pip install 'gpu_adam[{extra}{generation}]'"
    return f"pip uninstall --yes {' '.join(away)} && {install}" if away else install


def installed_cupy() -> list[str]:
    """The names of the CuPy packages that are installed; several disturb each other."""
    return [name for name in _CUPY if _is_installed(name)]


def _newest() -> int:
    try:
        return find().generation
    except EngineUnavailable:
        # Kernels can be compiled without a GPU, for another machine.
        return max(LEAST_DRIVER)


def _generations_here() -> list[int]:
    """The CUDA generations that the CuPy and the torch of this environment are for."""
    here = [_CUPY[name] for name in installed_cupy()]
    # torch brings CUDA packages of its own, which it asks for by their exact versions.
    cuda = getattr(getattr(sys.modules.get("torch"), "version", None), "cuda", None)
    here.append(int(cuda.partition(".")[0]) if cuda else None)
    return [generation for generation in here if generation in LEAST_DRIVER]


def _release() -> str | None:
    try:
        found = re.search(r"Module\s.*?\b(\d+\.\d+(?:\.\d+)?)\b", _KERNEL_MODULE.read_text(encoding="utf-8"))
    except OSError:  # there is no such file but on Linux
        return None
    return found[1] if found else None


def _called(release: str | None, cuda: tuple[int, int]) -> str:
    return f"NVIDIA's driver{f' {release}' if release else ''} (CUDA {cuda[0]}.{cuda[1]})"


def _without_library(release: str | None, error: OSError) -> str:
    if "NVIDIA_VISIBLE_DEVICES" in os.environ or (release and any(path.exists() for path in _CONTAINERS)):
        return (
            f"this container was started without a GPU ({error}): `docker run --gpus all`, on a host with NVIDIA's driver and its "
            "Container Toolkit, or use engine='cpu'"
        )
    if release:
        return f"{LIBRARY} of NVIDIA's driver {release} is missing ({error}): install the driver's CUDA library, libcuda1 on Debian"
    least = LEAST_DRIVER[min(_generations_here() or LEAST_DRIVER)]
    return f"there is no NVIDIA driver ({error}): install driver {least} or newer where there is an NVIDIA GPU, or use engine='cpu'"


def _without_gpu(called: str) -> str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU: unset it, or name a GPU that `nvidia-smi -L` lists"
    return f"{called} finds no GPU: `nvidia-smi -L` lists those that it knows, and a container needs `docker run --gpus all`"


def _gpu(library: Any, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    library.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    return Gpu(name.value.decode(errors="replace"), 10 * major.value + minor.value)


def _name(library: Any, status: int) -> str:
    name = ctypes.c_char_p()
    library.cuGetErrorName(status, ctypes.byref(name))
    return name.value.decode() if name.value else f"error {status}"


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
