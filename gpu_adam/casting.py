"""Arithmetic and casts on the host that round as IEEE 754 says and report nothing, whatever has been set for the calling thread.

Where a library has set the thread to flush subnormals to zero (``torch.set_flush_denormal``), coefficients, weights and moments would be
lost: Python computes and NumPy casts in the thread's mode. And NumPy reports what a cast rounds away as ``np.seterr`` and the filters of
warnings say, in the middle of the work.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from struct import Struct
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

_P = ParamSpec("_P")
_R = TypeVar("_R")

_ENVIRONMENT_BYTES = 256
"""More than any C library's ``fenv_t`` takes."""

# Names, for a product of constants is computed once, when this file is compiled.
_LEAST, _ONE = 5e-324, 1.0

_SINGLE = Struct("=f")


def flushes() -> bool:
    """Whether the thread flushes subnormals, as results or as operands; asked in each call, so in nanoseconds."""
    return _LEAST * _ONE == 0.0


@contextmanager
def ieee_mode() -> Iterator[None]:
    """A block in which the thread rounds to the nearest and keeps subnormals; where the C library cannot be asked for it, nothing."""
    library = _math_library()
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


def in_ieee_mode(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, which computes in that mode whatever the thread's is, and leaves the thread its own."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not flushes():
            return function(*args, **kwargs)
        with ieee_mode():
            return function(*args, **kwargs)

    return call


@contextmanager
def exact_casts() -> Iterator[None]:
    """A block, or a function that is decorated with ``exact_casts()``, whose casts round as IEEE 754 says and raise or warn of nothing."""
    with np.errstate(all="ignore"):
        if flushes():
            with ieee_mode():
                yield
        else:
            yield


def to_single(x: float) -> float:
    """A number rounded to float32, without NumPy, which would report it; infinite beyond float32.

    >>> to_single(0.1), to_single(-1e300)
    (0.10000000149011612, -inf)
    """
    try:
        return float(_SINGLE.unpack(_SINGLE.pack(x))[0])
    except OverflowError:
        return x * float("inf")


def store_row(rows: NDArray[Any], number: int, values: Sequence[float]) -> None:
    """Round numbers into a row of a C-contiguous matrix of float32 or float64, without NumPy, which would report it.

    Raises:
        OverflowError: If a finite one is beyond the matrix's format.
    """
    _struct_of(rows.dtype.char, rows.shape[1]).pack_into(rows.data, number * rows.strides[0], *values)


@cache
def _struct_of(char: str, count: int) -> Struct:
    return Struct(f"={count}{char}")


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
