"""Copies of anybody's arrays: to the host, on their own device, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..casting import exact_casts
from .libraries.numpy import NUMPY, check_class
from .library import ArrayRef
from .probe import probe


def to_host(array: Any) -> NDArray[Any]:
    """Anybody's array as a NumPy array, without a copy where it is one already.

    Raises:
        TypeError: If it is no array of a supported element type.
        ValueError: If it cannot be read.
    """
    if isinstance(array, np.ndarray):
        check_class(array, writable=False)
        return array
    ref = probe(array)
    if ref.device.kind == "cpu":
        return NUMPY.view_of(ref)  # type: ignore[no-any-return]
    return ref.library.read_ref(ref)


def snapshot(ref: ArrayRef) -> Any:
    """A copy of anybody's array, on its device."""
    return ref.library.copy(ref.library.view_of(ref))


@exact_casts()
def assign(to: ArrayRef, value: Any) -> None:
    """Copy the elements of an array of the same library, shape and device into one, each rounded once to its format."""
    to.library.assign(to, value)
