"""Numba's device arrays."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cuda.contexts import on_device
from ...cuda.streams import numba_stream
from ...device import Device
from ...dtypes import BFLOAT16, Format
from .. import cuda_interface
from ..cuda_interface import on_its_gpu
from ..library import ArrayRef, Library, root_of
from ..stretches import Stretch
from ..traits import DTYPE, SHAPE, STRIDES, Lifetime, Reader, each, nowhere


class _Numba(Library):
    """Numba, whose arrays hold no bfloat16: their words stand as int16 in its views."""

    name = "numba"
    lasting = (each(attrgetter("gpu_data", "shape", "strides", "dtype")),)  # which it lets be set, as any attribute

    def owns(self, kind: type) -> bool:
        return root_of(kind) in ("numba", "numba_cuda")

    def describe(self, array: Any, writable: bool) -> tuple[ArrayRef, bool]:
        return cuda_interface.read(self, array)

    def readers(self, lifetime: Lifetime = Lifetime.GIVEN) -> tuple[Reader, ...]:
        return _READERS

    def address(self, array: Any) -> int:
        try:
            return int(array.gpu_data.device_pointer)
        except (AttributeError, TypeError):  # the simulator, and older bindings
            return int(array.__cuda_array_interface__["data"][0])

    def device_view(self, stretch: Stretch, device: int, format: Format) -> Any:
        from numba import cuda

        with on_device(device):
            return cuda.as_cuda_array(stretch, sync=False)

    def copy(self, array: Any) -> Any:
        from numba import cuda

        with on_its_gpu(array):
            fresh = cuda.device_array_like(array)
            fresh.copy_to_device(array)
            return fresh

    def read(self, array: Any) -> NDArray[Any]:
        with on_its_gpu(array):
            host: NDArray[Any] = array.copy_to_host()
        return host.view(BFLOAT16.dtype) if host.dtype == np.int16 else host

    def write(self, array: Any, host: NDArray[Any]) -> None:
        with on_its_gpu(array):
            array.copy_to_device(host)

    def zero(self, array: Any) -> None:
        with on_its_gpu(array):
            array[...] = 0

    def ranked(self, indices: Any, sizes: Sequence[int], strides: Sequence[int], device: Device) -> tuple[Any, Any]:
        # It has no sort: by way of the host.
        return super().ranked(indices.copy_to_host(), sizes, strides, device)

    def copying_stream(self, device: int) -> int | None:
        return numba_stream()  # always the default one


NUMBA = _Numba()
_READERS: tuple[Reader, ...] = (each(NUMBA.address), nowhere, DTYPE, SHAPE, STRIDES)
