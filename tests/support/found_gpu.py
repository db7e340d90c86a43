"""Whether there is a GPU that tests can run on."""

from __future__ import annotations

import ctypes
import sys
from functools import cache


@cache
def why_no_gpu() -> str | None:
    """What keeps the CUDA driver from showing a GPU, or None if it shows one.

    The driver is asked itself, so the answer depends on no Python package.
    """
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver is installed ({library} was not found)"
    status = driver.cuInit(0)
    if status:
        name = ctypes.c_char_p()
        driver.cuGetErrorName(status, ctypes.byref(name))
        return f"the NVIDIA driver does not start ({(name.value or b'unknown error').decode()}, {status})"
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value else "the NVIDIA driver finds no GPU"
