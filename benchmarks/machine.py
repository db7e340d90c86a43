"""What measurements ran on and with, and which source it was."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu_adam import __version__
from gpu_adam.doctor import find_machine, find_packages

from .runner import ROOT

BUSY = 0.5
"""The load of a processor beyond which times mean little."""


def machine(device: str) -> dict[str, Any]:
    """Where it ran, on what, and how busy that was.

    Args:
        device: ``"cpu"`` or ``"cuda"``, where there must be a GPU.
    """
    here = find_machine()
    found: dict[str, Any] = {"cpu": here.cpu, "cores": here.processors, "system": here.system}
    if device == "cuda":
        found |= {"gpu": here.gpus[0], "driver": here.driver}
    if hasattr(os, "getloadavg"):
        found["load_at_start"] = round(os.getloadavg()[0], 2)
    return found


def gpu_properties() -> dict[str, Any]:
    """What a library can tell of the first GPU."""
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


def versions(others: Iterable[str] = ()) -> dict[str, str]:
    """Of all that takes part and is installed.

    Args:
        others: Packages that take part besides those that every benchmark names.
    """
    packages = {name: version for name, version in find_packages().items() if version is not None}
    found = {"python": platform.python_version(), "gpu_adam": __version__, **packages}
    for name in others:
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
