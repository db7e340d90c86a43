"""What is found: the hardware, the driver, the packages."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..cuda import driver
from ..engines.processors import usable_processors
from ..engines.threads import VARIABLE
from ..errors import EngineUnavailable

PACKAGES = (
    "numpy", "numba", "ml_dtypes", "cupy-cuda12x", "cupy-cuda13x", "cupy", "numba-cuda", "cuda-core", "cuda-bindings",
    "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc", "torch",
)  # fmt: skip
"""What the engines are made of, by the names that pip knows."""


@dataclass(frozen=True)
class Machine:
    """The hardware and the driver.

    Attributes:
        system: The operating system and the architecture.
        cpu: The processor's name.
        processors: How many of them this process may keep busy.
        processors_source: What says so.
        threads: The number of threads that the environment asks for, as it does.
        gpus: The GPUs that CUDA can see, by name.
        driver: The version of NVIDIA's driver, where the system tells it, and the newest CUDA that it runs, where a GPU can be used.
        no_gpu: Where none can: why, and what to do.
    """

    system: str
    cpu: str
    processors: int
    processors_source: str
    threads: str | None
    gpus: tuple[str, ...]
    driver: str | None
    no_gpu: str | None


def find_machine() -> Machine:
    """The hardware and the driver."""
    processors = usable_processors()
    gpus: tuple[str, ...] = ()
    version_of_driver = no_gpu = None
    try:
        found = driver.find()
        gpus = tuple(gpu.name for gpu in found.gpus)
        version_of_driver = f"{found.release or ''} for CUDA {found.cuda[0]}.{found.cuda[1]}".strip()
    except EngineUnavailable as error:
        no_gpu = str(error)
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu_model(),
        processors=processors.count,
        processors_source=processors.source,
        threads=os.environ.get(VARIABLE),
        gpus=gpus,
        driver=version_of_driver,
        no_gpu=no_gpu,
    )


def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def find_conflict() -> str | None:
    """The CuPy packages, if there are several, and how to be left with one."""
    names = driver.installed_cupy()
    return f"{' and '.join(names)} have their files in common: {driver.remedy()}" if len(names) > 1 else None


def find_packages() -> dict[str, str | None]:
    """The versions of ``PACKAGES``, without importing them."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
