"""What it ran on and with, and which source it was."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu_adam.doctor import find_machine

from .. import report as benchmark_report
from .record import LeftOut, Report
from .runner import ROOT

OTHERS = ("jax", "optax", "pytest", "pytest-xdist", "matplotlib", "scikit-learn")
"""Packages that take part besides those that every benchmark names."""

DRY_GPU = "none (dry run)"


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Tell of the machine; a part of its own, since asking a GPU may hang too."""
    report.result |= {
        "machine": machine(report.dry_run),
        "versions": versions(),
        "commit": commit(),
        "source": digest(),
    }


def machine(dry_run: bool) -> dict[str, Any]:
    """The hardware and the driver.

    Raises:
        LeftOut: If there is no GPU and it is no dry run.
    """
    if dry_run:
        return {**benchmark_report.machine("cpu"), "gpu": DRY_GPU, "driver": None}
    here = find_machine()
    if not here.gpus:
        raise LeftOut(f"no GPU was found ({here.no_gpu})")
    return {**benchmark_report.machine("cuda"), **_properties()}


def _properties() -> dict[str, Any]:
    """What a library can tell of the GPU."""
    try:
        from cupy.cuda import runtime

        found = runtime.getDeviceProperties(0)
        return {
            "capability": f"{found['major']}.{found['minor']}",
            "multiprocessors": found["multiProcessorCount"],
            "memory_bytes": found["totalGlobalMem"],
            "cache_bytes": found["l2CacheSize"],
        }
    except Exception:  # other figures do without it
        pass
    try:
        import torch

        found = torch.cuda.get_device_properties(0)
        return {
            "capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "memory_bytes": found.total_memory,
            "cache_bytes": found.L2_cache_size,
        }
    except Exception as error:
        return {"properties": f"not told ({type(error).__name__})"}


def versions() -> dict[str, str]:
    """Of all that takes part and is installed."""
    found = benchmark_report.versions()
    for name in OTHERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit that is checked out, and whether files differ from it; ``"unknown"`` outside a repository."""
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{head.strip()}{', changed' if changed.strip() else ''}"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def digest() -> str:
    """A digest of the package's source, by which it is known where there is no repository."""
    whole = sha256()
    for path in _source():
        content = path.read_bytes()
        whole.update(f"{path.relative_to(ROOT).as_posix()}:{len(content)}:".encode())
        whole.update(content)
    return whole.hexdigest()[:16]


def _source() -> Iterator[Path]:
    for folder in ("gpu_adam", "kernels"):
        yield from sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".cu", ".cuh"))
