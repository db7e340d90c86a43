"""Python programs under a sanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]


def sanitized(program: str, runtimes: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program that loads a library which g++ built with sanitizers, whose ``runtimes`` must be there first."""
    preload = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in runtimes
    ]
    whole = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{program}"
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(preload),
        # Python's own allocator hides the edges of its blocks, and what it never frees is not our leak.
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        **environment,
    }
    return subprocess.run([sys.executable, "-c", whole], env=environment, capture_output=True, text=True)
