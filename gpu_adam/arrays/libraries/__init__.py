"""The array libraries, and whose an array is."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

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
    # By what it says of itself, as a proxy of an array does.
    if isinstance(array, np.ndarray):
        return NUMPY
    try:
        return _library_of_class(type(array))  # type: ignore[arg-type]  # see below
    except TypeError:
        # A class whose own class compares, and has no hash.
        return _library_of_class.__wrapped__(type(array))


@lru_cache
def _library_of_class(kind: type) -> Library:
    return next((library for library in LIBRARIES if library.owns(kind)), FOREIGN)
