"""Views of our own memory as arrays of the caller's library, and copies of anybody's arrays to the host."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..casting import exact_casts
from ..cuda.contexts import on_device
from ..device import Device
from ..dtypes import BFLOAT16, Format
from .kinds import check_numpy
from .ordinary import ordinary_tensors
from .probe import ArrayRef, Family, probe


@dataclass(frozen=True, eq=False)
class _Stretch:
    """Memory that CuPy, Numba, torch and NumPy take up without a copy, and that keeps its owner alive."""

    interface: dict[str, Any]
    owner: Any

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The GPU libraries' protocol."""
        return self.interface


class HostStretch(_Stretch):
    """The same in host memory."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's protocol."""
        return self.interface


def view(
    family: Family,
    device: Device,
    address: int,
    format: Format,
    shape: Sequence[int],
    strides: Sequence[int],
    owner: Any,
) -> Any:
    """An array of the family's library over memory that it does not own; ``strides`` in elements.

    Where the library is unknown the view is NumPy's on the CPU, and CuPy's or else Numba's on a GPU.
    """
    # No protocol here names bfloat16, so its words travel as int16 and are renamed on arrival (not by Numba, which has none).
    typestr = "<i2" if format is BFLOAT16 else f"<f{format.itemsize}"
    interface = {
        "shape": tuple(shape),
        "strides": tuple(stride * format.itemsize for stride in strides),
        "typestr": typestr,
        "data": (address, False),
        "version": 3,
    }
    if device.kind == "cpu":
        array: Any = np.asarray(HostStretch(interface, owner))
        if family == "torch":
            import torch

            with ordinary_tensors():
                tensor = torch.from_numpy(array)
                return tensor.view(torch.bfloat16) if format is BFLOAT16 else tensor
        return array.view(format.dtype) if format is BFLOAT16 else array
    return _device_view(family, device, format, _Stretch(interface, owner))


def _device_view(family: Family, device: Device, format: Format, stretch: _Stretch) -> Any:
    if family == "torch":
        import torch

        with ordinary_tensors(), on_device(device.index):
            tensor = torch.as_tensor(stretch, device=f"cuda:{device.index}")
            return tensor.view(torch.bfloat16) if format is BFLOAT16 else tensor
    if family in ("cupy", "foreign"):
        try:
            import cupy
        except ImportError:
            if family == "cupy":
                raise
        else:
            with on_device(device.index):
                array = cupy.asarray(stretch)
            return array.view(format.dtype) if format is BFLOAT16 else array
    from numba import cuda

    with on_device(device.index):
        return cuda.as_cuda_array(stretch, sync=False)


def copy_of(family: Family, array: Any) -> Any:
    """A copy of a view made by `view`, of the same strides, on the same device."""
    if family == "torch":
        with ordinary_tensors():
            return array.clone()
    with _where_it_is(array):
        if hasattr(array, "copy_to_host"):
            from numba import cuda

            fresh = cuda.device_array_like(array)
            fresh.copy_to_device(array)
            return fresh
        return array.copy(order="K")


def snapshot(ref: ArrayRef) -> Any:
    """A copy of anybody's array, on its device."""
    return copy_of(ref.family, _view_of(ref, ref.family))


def _view_of(ref: ArrayRef, family: Family) -> Any:
    """Anybody's array, as one of a library."""
    # Where there is no element, the GPUs' protocol wants no address: the array's own may be one past the end of its library's memory.
    address = 0 if 0 in ref.shape and ref.device.kind != "cpu" else ref.address
    return view(family, ref.device, address, ref.format, ref.shape, ref.strides, ref.array)


def _where_it_is(array: Any) -> AbstractContextManager[Any]:
    """Make the GPU current that an array of CuPy's or Numba's is on, where these libraries work; nothing for other arrays."""
    own = getattr(array, "device", None)
    if own is None:
        own = getattr(getattr(getattr(array, "gpu_data", None), "context", None), "device", None)
    index = getattr(own, "id", None)
    return on_device(index) if isinstance(index, int) else nullcontext()


@exact_casts()
def assign(to: ArrayRef, value: Any) -> None:
    """Copy the elements of an array into one of the same shape and device, each rounded once to its format."""
    if to.family == "torch":
        # In inference mode, which is each thread's own, tensors that were made in it can be written to, and all others as well.
        with sys.modules["torch"].inference_mode():
            to.array.detach().copy_(value)
    elif to.family in ("numpy", "cupy"):
        with _where_it_is(to.array):
            to.array[...] = value
    else:
        place = _view_of(to, to.family)
        host = to_host(value).astype(to.format.dtype)
        if to.device.kind == "cpu":
            place[...] = host
        else:
            with _where_it_is(place):
                (place.set if hasattr(place, "set") else place.copy_to_device)(host)


def to_host(array: Any) -> NDArray[Any]:
    """Anybody's array as a NumPy array, without a copy where it is one already.

    Raises:
        TypeError: If it is no array of a supported element type.
        ValueError: If it cannot be read.
    """
    if isinstance(array, np.ndarray):
        check_numpy(array, writable=False)
        return array
    ref = probe(array)
    if ref.device.kind == "cpu":
        found = _view_of(ref, "numpy")
        return found  # type: ignore[no-any-return]
    if ref.family == "torch":
        return to_host(array.detach().cpu())
    if not hasattr(array, "copy_to_host") and not hasattr(array, "get"):
        array = _view_of(ref, "foreign")
    with _where_it_is(array):
        host: NDArray[Any] = array.copy_to_host() if hasattr(array, "copy_to_host") else array.get()
    # Numba has no bfloat16 and hands over the words.
    return host.view(ref.format.dtype)


def zero(array: Any) -> None:
    """Fill an array with zeros, in place."""
    if hasattr(array, "zero_"):
        array.detach().zero_()
    else:
        with _where_it_is(array):
            if hasattr(array, "fill"):
                array.fill(0)
            else:
                array[...] = 0
