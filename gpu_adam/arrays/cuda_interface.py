"""Reading ``__cuda_array_interface__``: what lies in a GPU's memory, and on which GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from ..cuda import driver
from ..cuda.calls import cuda_driver
from ..cuda.contexts import on_device
from ..device import Device
from ..dtypes import format_of
from ..errors import EngineUnavailable
from ..strides import row_major
from .library import ArrayRef, Library, in_elements, no_array


def read(library: Library, array: Any, dtype: Any = None) -> tuple[ArrayRef, bool]:
    """What an array's interface says, and whether its memory may be written to.

    Args:
        library: Whose array it is.
        array: The array.
        dtype: Its elements' dtype, where the interface does not tell it.

    Raises:
        TypeError: If it has no interface, or elements that are not in one of the four formats.
        ValueError: If it has a mask, strides between elements, or memory on a GPU that cannot be asked for.
    """
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is None:
        raise no_array(array)
    format = format_of(np.dtype(interface["typestr"]) if dtype is None else dtype)
    if interface.get("mask") is not None:
        raise ValueError("has a mask: use an array without one")
    shape = tuple(interface["shape"])
    strides = interface.get("strides")
    strides = row_major(shape) if strides is None else in_elements(strides, format)
    address, read_only = interface["data"]
    device = Device("cuda", _device_of(array, address))
    return ArrayRef(library, device, format, shape, strides, address, array), not read_only


def on_its_gpu(array: Any) -> AbstractContextManager[Any]:
    """A block in which the GPU is current that an array of CuPy's or Numba's is on, where these libraries work."""
    index = _told_by(array)
    return nullcontext() if index is None else on_device(index)


def _told_by(array: Any) -> int | None:
    """The GPU that an array itself tells."""
    index = getattr(getattr(array, "device", None), "id", None)
    if isinstance(index, int):
        return index
    context = getattr(getattr(array, "gpu_data", None), "context", None)
    return None if context is None else int(context.device.id)  # a Numba device array


def _device_of(array: Any, address: int) -> int:
    """The GPU that holds the memory at an address."""
    index = _told_by(array)
    if index is not None:
        return index
    try:
        asked = cuda_driver()
        return asked.device_of(address) if address else asked.current_device()
    except (OSError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        try:
            driver.find()
        except EngineUnavailable as missing:  # and names the remedy
            reason = str(missing)
        raise ValueError(f"lives on a GPU, and no GPU can be asked about it: {reason}") from None
