"""Whose an exception is that comes while an array is looked at: its library's, or that of a signal's handler, which came in between."""

from __future__ import annotations

import sys
from typing import Any

_LIBRARIES = {"gpu_adam", "numpy", "torch", "cupy", "cupy_backends", "numba", "numba_cuda", "cuda"}
"""The packages whose code is run there."""


def raise_if_foreign(error: BaseException, array: Any = None) -> None:
    """Raise an exception again whose last frame is of nobody who was asked about an array.

    Args:
        error: The exception.
        array: The array, of whatever library.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return
    home = str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0]
    own = type(array).__module__.partition(".")[0]
    if home not in _LIBRARIES and home not in sys.stdlib_module_names and home != own:
        raise error
