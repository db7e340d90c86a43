"""Memory that arrays of the libraries are made over without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..dtypes import BFLOAT16, Format


@dataclass(frozen=True, eq=False)
class Stretch:
    """Memory that CuPy, Numba and torch take up by their protocol, and that keeps its owner alive."""

    interface: dict[str, Any]
    owner: Any

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The GPU libraries' protocol."""
        return self.interface


class HostStretch(Stretch):
    """The same in host memory."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's protocol."""
        return self.interface


def interface_of(address: int, format: Format, shape: Sequence[int], strides: Sequence[int]) -> dict[str, Any]:
    """What the protocols say of memory; ``strides`` in elements.

    Neither names bfloat16, so its words travel as int16 and are renamed on arrival (not by Numba, which has none).
    """
    return {
        "shape": tuple(shape),
        "strides": tuple(stride * format.itemsize for stride in strides),
        "typestr": "<i2" if format is BFLOAT16 else f"<f{format.itemsize}",
        "data": (address, False),
        "version": 3,
    }
