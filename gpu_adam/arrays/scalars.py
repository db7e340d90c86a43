"""Numbers that lie on a device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checks import refuse_dimensions
from ..device import Device
from ..dtypes import FORMATS
from . import probe_named


@dataclass(frozen=True)
class Scalar:
    """A number that lies in a device's memory, and is read there.

    Attributes:
        device: Where.
        address: Its address.
        format: The place of its format in `gpu_adam.dtypes.FORMATS`.
        array: The array, which keeps the memory alive; ``None`` where only the place is remembered.
    """

    device: Device
    address: int
    format: int
    array: Any = field(repr=False, compare=False)


def scalar_on(value: Any, name: str) -> Scalar | None:
    """A 0-dimensional array of a library that keeps it on a device, as a `Scalar`; ``None`` for numbers and NumPy's arrays.

    Raises:
        TypeError: If it is no number in a float format.
        ValueError: If it has more than one element.
    """
    if isinstance(value, (int, float, np.ndarray, np.generic)) or not hasattr(value, "shape"):
        return None
    ref = probe_named(value, name)
    refuse_dimensions(ref.shape, name, but_one=True)
    return Scalar(ref.device, ref.address, FORMATS.index(ref.format), value)
