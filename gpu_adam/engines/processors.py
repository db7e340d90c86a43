"""How many processors this process may keep busy, and what says so."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .cgroups import cpu_quota


@dataclass(frozen=True)
class Processors:
    """Processors that a process may keep busy at once.

    Attributes:
        count: How many, at least 1.
        source: What says so, in words for people.
    """

    count: int
    source: str


def usable_processors(root: Path = Path("/")) -> Processors:
    """The processors that Python counts, or fewer where a container's CPU quota allows fewer, rounded up.

    Python counts those that the process's affinity allows (all, where the system knows no affinity), unless ``-X cpu_count`` or
    ``PYTHON_CPU_COUNT`` gives another number (Python 3.13).

    Args:
        root: As for `gpu_adam.engines.cgroups.cpu_quota`.
    """
    present = os.cpu_count() or 1
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else present
    counted = getattr(os, "process_cpu_count", lambda: None)() or affine
    quota = cpu_quota(root)
    if quota is not None and quota.threads < counted:
        return Processors(quota.threads, f"a quota of {quota.processors:g} in {quota.file}, of {counted}")
    if counted != affine:
        return Processors(counted, "-X cpu_count or PYTHON_CPU_COUNT")
    return Processors(counted, "all there are" if affine == present else f"affinity, of {present}")
