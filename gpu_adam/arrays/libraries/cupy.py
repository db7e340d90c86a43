"""CuPy's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from numpy.typing import NDArray

from ...cuda.contexts import on_device
from ...device import Device
from ...dtypes import BFLOAT16, Format
from .. import cuda_interface
from ..cuda_interface import on_its_gpu
from ..library import ArrayRef, Library, root_of, row_numbers
from ..stretches import Stretch
from ..traits import DTYPE, SHAPE, STRIDES, Lifetime, Reader, each


class _Cupy(Library):
    """CuPy, which works on the current GPU."""

    name = "cupy"
    lasting = (SHAPE,)  # which it lets be set

    def owns(self, kind: type) -> bool:
        return root_of(kind) == "cupy"

    def describe(self, array: Any, writable: bool) -> tuple[ArrayRef, bool]:
        # Its typestr of bfloat16 is that of two raw bytes; its dtype says what they are.
        return cuda_interface.read(self, array, getattr(array, "dtype", None))

    def readers(self, lifetime: Lifetime = Lifetime.GIVEN) -> tuple[Reader, ...]:
        return _READERS

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def device_view(self, stretch: Stretch, device: int, format: Format) -> Any:
        import cupy

        with on_device(device):
            array = cupy.asarray(stretch)
        return array.view(format.dtype) if format is BFLOAT16 else array

    def copy(self, array: Any) -> Any:
        with on_its_gpu(array):
            return array.copy(order="K")

    def contiguous(self, array: Any) -> Any:
        import cupy

        with on_its_gpu(array):
            return cupy.ascontiguousarray(array)

    def read(self, array: Any) -> NDArray[Any]:
        with on_its_gpu(array):
            return array.get()  # type: ignore[no-any-return]

    def write(self, array: Any, host: NDArray[Any]) -> None:
        with on_its_gpu(array):
            array.set(host)

    def assign(self, to: ArrayRef, value: Any) -> None:
        with on_its_gpu(to.array):
            to.array[...] = value

    def zero(self, array: Any) -> None:
        with on_its_gpu(array):
            array.fill(0)

    def ranked(self, indices: Any, sizes: Sequence[int], strides: Sequence[int], device: Device) -> tuple[Any, Any]:
        if device.kind == "cpu":
            return super().ranked(indices, sizes, strides, device)
        import cupy

        with on_device(device.index):
            numbers = row_numbers(cupy.asarray(indices, cupy.int64), sizes, strides)
            order = cupy.argsort(numbers)  # stable, as CuPy's only kind
            return numbers[order], order

    def stream(self, device: int) -> int | None:
        import cupy

        return int(cupy.cuda.get_current_stream(device).ptr)


_READERS: tuple[Reader, ...] = (each(attrgetter("data.ptr")), each(attrgetter("data.device_id")), DTYPE, SHAPE, STRIDES)

CUPY = _Cupy()
