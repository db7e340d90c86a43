"""The array libraries: a stretch of memory with given numbers in it, and arrays that lie there somehow."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gpu_adam.arrays import dlpack
from tests.support.dlpack_exporters import CODES, new_capsule
from tests.support.reference import DTYPES

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Layout:
    """How an array lies in its memory; strides and offset in elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def extent(self) -> int:
        """Elements that the memory must have, some of them behind the array, which must stay as they are."""
        return self.offset + 7 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))


def dense(*shape: int, offset: int = 0) -> Layout:
    strides = tuple(int(np.prod(shape[d + 1 :], dtype=int)) for d in range(len(shape)))
    return Layout(shape, strides, offset)


def transposed(rows: int, columns: int, offset: int = 0) -> Layout:
    return Layout((rows, columns), (1, rows), offset)


class Numpy:
    name = "numpy"
    formats = tuple(DTYPES)
    packs = True

    def require(self) -> None:
        """Skip where the library is not there."""

    def memory(self, numbers: Array) -> Any:
        return numbers.copy()

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        strides = tuple(stride * dtype.itemsize for stride in layout.strides)
        return np.lib.stride_tricks.as_strided(memory[layout.offset :], layout.shape, strides)


class Torch:
    formats = tuple(DTYPES)
    packs = True

    def __init__(self, device: str) -> None:
        self.name = f"torch {device}"
        self.device = device

    def require(self) -> None:
        torch = pytest.importorskip("torch", reason="torch is not installed")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            pytest.skip("this torch cannot use the GPU")

    def memory(self, numbers: Array) -> Any:
        import torch

        words = torch.from_numpy(numbers.view(f"i{numbers.dtype.itemsize}").copy())
        return words.view(getattr(torch, numbers.dtype.name)).to(self.device)

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        return memory.as_strided(layout.shape, layout.strides, layout.offset)


class Cupy:
    name = "cupy"
    formats = tuple(DTYPES)
    packs = True

    def require(self) -> None:
        pytest.importorskip("cupy", reason="CuPy is not installed")

    def memory(self, numbers: Array) -> Any:
        import cupy

        return cupy.asarray(numbers.view(f"u{numbers.dtype.itemsize}")).view(numbers.dtype)

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        from cupy.lib.stride_tricks import as_strided

        return as_strided(
            memory[layout.offset :], layout.shape, tuple(stride * dtype.itemsize for stride in layout.strides)
        )


class Numba:
    name = "numba"
    formats = tuple(name for name in DTYPES if name != "bfloat16")  # which Numba's arrays do not know
    packs = True

    def require(self) -> None:
        pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

    def memory(self, numbers: Array) -> Any:
        from numba import cuda

        return cuda.to_device(numbers)

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        from numba import cuda

        return cuda.as_cuda_array(Interface(memory, dtype, layout), sync=False)


class Foreign:
    """Arrays that are known by a protocol only, in memory that a library lends."""

    packs = False

    def __init__(self, wrapper: type, lender: Any) -> None:
        self.name = wrapper.__name__
        self.wrapper = wrapper
        self.lender = lender
        # In __cuda_array_interface__ nothing stands for bfloat16.
        self.formats = tuple(DTYPES) if wrapper is Capsule else tuple(name for name in DTYPES if name != "bfloat16")

    def require(self) -> None:
        self.lender.require()

    def memory(self, numbers: Array) -> Any:
        # As words, of which the lender need know nothing.
        return self.lender.memory(numbers.view(f"u{numbers.dtype.itemsize}"))

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        return self.wrapper(memory, dtype, layout)


class Interface:
    """An array with `__cuda_array_interface__` and nothing else."""

    def __init__(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> None:
        self._memory = memory
        self.__cuda_array_interface__ = {
            "shape": layout.shape,
            "strides": tuple(stride * dtype.itemsize for stride in layout.strides),
            "typestr": dtype.str,
            "data": (address_of(memory) + layout.offset * dtype.itemsize, False),
            "version": 3,
        }


class Capsule:
    """An array with DLPack and nothing else."""

    def __init__(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> None:
        ndim = len(layout.shape)
        self._memory = memory
        self._device = (1 if isinstance(memory, np.ndarray) else 2, 0)
        self._shape, self._strides = (ctypes.c_int64 * ndim)(*layout.shape), (ctypes.c_int64 * ndim)(*layout.strides)
        (code, bits), offset = CODES[dtype.name], layout.offset * dtype.itemsize
        tensor = dlpack._Tensor(
            address_of(memory), *self._device, ndim, code, bits, 1, self._shape, self._strides, offset
        )
        self._exported = dlpack._Versioned(1, 0, None, None, 0, tensor)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, stream: Any = None, max_version: tuple[int, int] | None = None) -> Any:
        return new_capsule(ctypes.addressof(self._exported), b"dltensor_versioned", None)


def address_of(array: Any) -> int:
    if isinstance(array, np.ndarray):
        return int(array.__array_interface__["data"][0])
    if hasattr(array, "data_ptr"):
        return int(array.data_ptr())
    return int(array.__cuda_array_interface__["data"][0])


def host(array: Any, dtype: np.dtype[Any] | None = None) -> Array:
    """A copy as a NumPy array, made by the array's own library; where that knows only words, of this dtype."""
    if isinstance(array, np.ndarray):
        out = array.copy()
    elif hasattr(array, "copy_to_host"):
        out = array.copy_to_host()
    elif hasattr(array, "detach"):
        words = getattr(sys.modules["torch"], f"int{8 * array.element_size()}")
        name = str(array.dtype).removeprefix("torch.")
        out = array.detach().cpu().view(words).numpy().copy().view(DTYPES[name])
    else:
        out = array.view(f"u{array.dtype.itemsize}").get().view(array.dtype)
    return out if dtype is None else out.view(dtype)


def write(to: Any, numbers: Any) -> None:
    """Copy an array into another of the same library."""
    if hasattr(to, "copy_to_device"):
        to.copy_to_device(numbers)
    elif hasattr(to, "copy_"):
        to.detach().copy_(numbers)
    else:
        words = f"u{to.dtype.itemsize}"
        to.view(words)[...] = numbers.view(words)


def duplicate(array: Any) -> Any:
    if hasattr(array, "clone"):
        return array.detach().clone()
    return array.view(f"u{array.dtype.itemsize}").copy(order="K").view(array.dtype)
