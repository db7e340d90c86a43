"""Casts that round as IEEE 754 says and report nothing, whatever has been set for the calling thread.

NumPy casts in the thread's floating-point mode: where a library has set it to flush subnormals to zero (``torch.set_flush_denormal``),
weights and moments would be lost. And it reports what a cast rounds away as ``np.seterr`` and the filters of warnings say, in the middle
of the work.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

_ENVIRONMENT_BYTES = 256
"""More than any C library's ``fenv_t`` takes."""

_SUBNORMAL = 1e-40
"""One of float32's."""


@contextmanager
def exact_casts() -> Iterator[None]:
    """A block, or a function that is decorated with ``exact_casts()``, whose casts round as IEEE 754 says and raise or warn of nothing."""
    with np.errstate(all="ignore"):
        library = _math_library() if _flushes() else None
        if library is None:
            yield
            return
        before = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
        library.fegetenv(before)
        try:
            library.fesetenv(_default_environment(library))
            yield
        finally:
            library.fesetenv(before)


def _flushes() -> bool:
    """Whether subnormals are flushed, as results or as operands."""
    return float(np.float32(_SUBNORMAL)) == 0.0


@cache
def _math_library() -> Any:
    """The C library's floating-point environment; ``None`` where it cannot be reached, as on Windows."""
    for name in (None, "libm.so.6"):
        try:
            library = ctypes.PyDLL(name)
            library.fegetenv.argtypes = library.fesetenv.argtypes = (ctypes.c_void_p,)
        except (OSError, TypeError, AttributeError):
            continue
        return library
    return None


def _default_environment(library: Any) -> ctypes.c_void_p:
    """The address that C calls ``FE_DFL_ENV``."""
    try:
        return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(library, "_FE_DFL_ENV")))  # macOS
    except ValueError:
        return ctypes.c_void_p(-1)  # glibc and musl
