"""What an array is and where it lies, whatever library it comes from."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..cuda import driver
from ..cuda.calls import cuda_driver
from ..device import Device
from ..dtypes import Format, format_named, format_of, unsupported
from ..errors import EngineUnavailable
from ..strides import row_major
from . import dlpack
from .kinds import check_mutable, check_numpy, check_torch, may_be_written, name_of
from .raised import raise_if_foreign
from .structs import owner_of

Family = Literal["numpy", "torch", "cupy", "numba", "foreign"]


@dataclass(frozen=True)
class ArrayRef:
    """One array, described.

    Attributes:
        family: The library that views of its memory are made with; ``"foreign"`` for an array known by a protocol only.
        device: Where it lives.
        format: Its element type.
        shape: Its shape.
        strides: Its strides, in elements.
        address: Its first element's address in bytes.
        array: The array itself, which keeps the memory alive.
    """

    family: Family
    device: Device
    format: Format
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    address: int
    array: Any = field(repr=False, compare=False)

    def same_elements(self, other: ArrayRef) -> bool:
        """Whether both describe the same elements in the same order."""
        mine = (self.device, self.format, self.address, self.shape, self.strides)
        return mine == (other.device, other.format, other.address, other.shape, other.strides)


def reach(ref: ArrayRef) -> tuple[int, int]:
    """The first byte that an array may touch, and the first that it does not."""
    if 0 in ref.shape:
        return ref.address, ref.address
    spans = [stride * (size - 1) for size, stride in zip(ref.shape, ref.strides, strict=True)]
    itemsize = ref.format.itemsize
    low = sum(span for span in spans if span < 0)
    high = sum(span for span in spans if span > 0)
    return ref.address + low * itemsize, ref.address + (high + 1) * itemsize


def probe(array: Any, *, writable: bool = False) -> ArrayRef:
    """The description of an array.

    Args:
        array: A NumPy, CuPy or Numba device array, a torch tensor, or any object with ``__cuda_array_interface__`` or ``__dlpack__``.
        writable: Whether it must be writable.

    Raises:
        TypeError: If it is none of these, means more than its memory says, is immutable where it must not be, or its elements are not
            float64, float32, float16 or bfloat16.
        ValueError: If it is read-only where it must not be, not aligned to its elements, sparse, on an unknown device, or its memory
            was freed.
    """
    found, can_write = _describe(array, writable)
    if writable and can_write is None and not may_be_written(array, found.address):
        raise ValueError(
            f"is a {name_of(array)}, whose DLPack capsule has no version and so cannot say whether its memory may be written to: "
            "use arrays of a library with DLPack 1.0"
        )
    if writable and can_write is False:
        raise ValueError("is read-only: the update happens in the caller's memory")
    if 0 in found.shape:
        return found
    if not found.address:
        raise ValueError("has no memory: it was freed, or its library keeps it elsewhere")
    if found.address % found.format.itemsize:
        raise ValueError(f"starts at address {found.address:#x}, which is no multiple of its element's size")
    return found


def probe_named(array: Any, what: str, *, writable: bool = False) -> ArrayRef:
    """As `probe`, with ``what`` at the beginning of an error's message."""
    try:
        return probe(array, writable=writable)
    except BufferError as error:
        raise_if_foreign(error, array)
        raise ValueError(f"{what} is not handed over by DLPack: {error}") from None
    except (TypeError, ValueError) as error:
        raise_if_foreign(error, array)
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{what} {error}") from None


def _describe(array: Any, writable: bool) -> tuple[ArrayRef, bool | None]:
    """The description of an array, and whether its memory may be written to; ``None`` where its library cannot say."""
    if isinstance(array, np.ndarray):
        return _numpy(array, writable)
    if isinstance(array, np.generic):
        if writable:
            raise TypeError(
                f"is a {name_of(array)}: use a NumPy array, which can change where a number cannot: numpy.array(x)"
            )
        # What NumPy's arithmetic makes of 0-dimensional arrays.
        return _numpy(np.asarray(array), writable)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        try:
            return _torch(array, torch), True
        except RuntimeError as error:
            raise_if_foreign(error)
            reason = str(error).partition("\n")[0].partition(". ")[0]
            raise ValueError(
                f"cannot be looked at ({reason}): use a tensor outside of torch.func and torch.vmap, with memory"
            ) from None
    if not isinstance(array, type):
        if writable:
            check_mutable(array)
        if hasattr(array, "__cuda_array_interface__"):
            return _cuda_array_interface(array)
        if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
            found = dlpack.read(array)
            ref = ArrayRef("foreign", found.device, found.format, found.shape, found.strides, found.address, array)
            return ref, found.writable
    raise TypeError(
        f"is a {name_of(array)}: use a NumPy, CuPy or Numba device array, a torch tensor, "
        "or an object with __cuda_array_interface__ or __dlpack__"
    )


def _numpy(array: np.ndarray[Any, Any], writable: bool) -> tuple[ArrayRef, bool]:
    check_numpy(array, writable)
    format = format_of(array.dtype)
    strides = _in_elements(array.strides, format)
    address = array.__array_interface__["data"][0]
    ref = ArrayRef("numpy", Device("cpu"), format, array.shape, strides, address, array)
    owner = owner_of(array)
    if owner is not None and owner is not array:
        start = owner.__array_interface__["data"][0]
        _check_within(ref, start, start + owner.nbytes, "the array that it is a view of")
    return ref, array.flags.writeable


def _torch(tensor: Any, torch: Any) -> ArrayRef:
    check_torch(tensor, torch)
    name = str(tensor.dtype).removeprefix("torch.")
    try:
        format = format_named(name)
    except KeyError:
        raise TypeError(unsupported(name)) from None
    kind = tensor.device.type
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"lives on device {tensor.device}: use the CPU or CUDA")
    device = Device(kind, tensor.device.index or 0 if kind == "cuda" else 0)
    ref = ArrayRef("torch", device, format, tuple(tensor.shape), tensor.stride(), tensor.data_ptr(), tensor)
    if ref.address:
        storage = tensor.untyped_storage()
        _check_within(ref, storage.data_ptr(), storage.data_ptr() + storage.nbytes(), "its storage")
    return ref


def _check_within(ref: ArrayRef, start: int, stop: int, what: str) -> None:
    first, end = reach(ref)
    if first != end and not start <= first <= end <= stop:
        raise ValueError(
            f"has no memory for all of its elements: {what} was resized to {stop - start:,} bytes and they take {end - first:,}"
        )


def _cuda_array_interface(array: Any) -> tuple[ArrayRef, bool]:
    interface = array.__cuda_array_interface__
    module = type(array).__module__.partition(".")[0]
    # CuPy's typestr of bfloat16 is that of two raw bytes; its dtype says what they are.
    format = format_of(array.dtype if module == "cupy" else np.dtype(interface["typestr"]))
    if interface.get("mask") is not None:
        raise ValueError("has a mask: use an array without one")
    shape = tuple(interface["shape"])
    strides = interface.get("strides")
    strides = row_major(shape) if strides is None else _in_elements(strides, format)
    address, read_only = interface["data"]
    family: Family = "cupy" if module == "cupy" else "numba" if module in ("numba", "numba_cuda") else "foreign"
    device = Device("cuda", _device_of(array, address))
    return ArrayRef(family, device, format, shape, strides, address, array), not read_only


def _device_of(array: Any, address: int) -> int:
    """The GPU that holds the memory at an address."""
    own = getattr(array, "device", None)
    if isinstance(getattr(own, "id", None), int):
        return own.id  # type: ignore[union-attr,no-any-return]
    context = getattr(getattr(array, "gpu_data", None), "context", None)
    if context is not None:  # a Numba device array
        return int(context.device.id)
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


def _in_elements(strides: tuple[int, ...], format: Format) -> tuple[int, ...]:
    if any(stride % format.itemsize for stride in strides):
        raise ValueError(f"has strides of {strides} bytes, which are no multiples of its element's {format.itemsize}")
    return tuple(stride // format.itemsize for stride in strides)
