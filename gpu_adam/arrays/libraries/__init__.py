"""The array libraries, and whose an array is."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..library import Library
from .cupy import CUPY
from .foreign import FOREIGN
from .numba import NUMBA
from .numpy import NUMPY
from .torch import TORCH

LIBRARIES: tuple[Library, ...] = (NUMPY, TORCH, CUPY, NUMBA)
"""Those that are known, in the order in which they are asked."""


def library_of(array: Any) -> Library:
    """Whose array it is; `FOREIGN` for one of another library, and for anything else."""
    return _library_of_class(type(array))  # type: ignore[arg-type]  # of no metaclass that forbids it


@lru_cache
def _library_of_class(kind: type) -> Library:
    return next((library for library in LIBRARIES if library.owns(kind)), FOREIGN)
