"""CUDA's stream that is another one in each thread."""

from __future__ import annotations

import os

PER_THREAD = 2
"""Its handle, ``CU_STREAM_PER_THREAD``."""


def is_default() -> bool:
    """Whether ``cuda.bindings`` is told to work on it where no stream is named."""
    return os.environ.get("CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM", "0") not in ("", "0")
