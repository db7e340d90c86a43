"""Arrays of every other library, by the protocols that they speak; where one is made, the library of the protocol makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...device import Device
from ...dtypes import Format
from .. import cuda_interface, dlpack
from ..library import ArrayRef, Library, name_of, no_array, root_of
from ..stretches import Stretch
from .cupy import CUPY
from .numba import NUMBA
from .numpy import NUMPY

_IMMUTABLE = frozenset({"jax", "jaxlib", "tensorflow"})
"""Libraries whose arrays never change, though not all of their versions say so."""

_MUTABLE = frozenset({"paddle", "oneflow", "mxnet", "tvm"})
"""Libraries that write to their own arrays in place, whatever DLPack they speak."""


class _Foreign(Library):
    """``__cuda_array_interface__`` and DLPack. Its views are NumPy's on the CPU, and CuPy's or else Numba's on a GPU."""

    name = "foreign"
    makes_parameters = False

    def owns(self, kind: type) -> bool:
        return True

    def describe(self, array: Any, writable: bool) -> tuple[ArrayRef, bool | None]:
        if not isinstance(array, type):
            if writable:
                _check_mutable(array)
            if hasattr(array, "__cuda_array_interface__"):
                return cuda_interface.read(self, array)
            if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
                found = dlpack.read(array)
                ref = ArrayRef(self, found.device, found.format, found.shape, found.strides, found.address, array)
                if writable and found.writable is None and _may_be_written(array, found.address):
                    return ref, True
                return ref, found.writable
        raise no_array(array)

    def device_view(self, stretch: Stretch, device: int, format: Format) -> Any:
        try:
            import cupy  # noqa: F401
        except ImportError:
            return NUMBA.device_view(stretch, device, format)
        return CUPY.device_view(stretch, device, format)

    def copy(self, array: Any) -> Any:
        return _maker_of(array).copy(array)

    def contiguous(self, array: Any) -> Any:
        return array.contiguous() if hasattr(array, "contiguous") else array

    def read(self, array: Any) -> NDArray[Any]:
        return _maker_of(array).read(array)

    def write(self, array: Any, host: NDArray[Any]) -> None:
        _maker_of(array).write(array, host)

    def read_ref(self, ref: ArrayRef) -> NDArray[Any]:
        return self.read(self.view_of(ref))

    def zero(self, array: Any) -> None:
        # The caller's own array, of which nothing is known, or a view that was made here.
        if hasattr(array, "zero_"):
            array.detach().zero_()
            return
        with cuda_interface.on_its_gpu(array):
            if hasattr(array, "fill"):
                array.fill(0)
            else:
                array[...] = 0

    def ranked(self, indices: Any, sizes: Sequence[int], strides: Sequence[int], device: Device) -> tuple[Any, Any]:
        host = indices.copy_to_host() if hasattr(indices, "copy_to_host") else indices
        return super().ranked(host, sizes, strides, device)


def _maker_of(array: Any) -> Library:
    """The library that made a view."""
    if isinstance(array, np.ndarray):
        return NUMPY
    return NUMBA if hasattr(array, "copy_to_host") else CUPY


def _check_mutable(array: Any) -> None:
    """Nothing, unless the array's library never changes an array.

    Raises:
        TypeError: If it is such a library's.
    """
    kind = type(array)
    if hasattr(kind, "__jax_array__") or any(root_of(base) in _IMMUTABLE for base in kind.__mro__):
        raise TypeError(
            f"is a {name_of(array)}, which is immutable: keep parameters in arrays of a library that updates them in place"
        )


def _may_be_written(array: Any, address: int) -> bool:
    """Whether somebody but DLPack, which did not say, tells that the array's memory may be written to."""
    interface = getattr(array, "__array_interface__", None)
    if isinstance(interface, dict) and interface.get("data") == (address, False):
        return True
    return any(root_of(base) in _MUTABLE for base in type(array).__mro__)


FOREIGN = _Foreign()
