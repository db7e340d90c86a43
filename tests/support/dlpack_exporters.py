"""Arrays that are known by DLPack only, as old and new exporters hand them out."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from gpu_adam.arrays import dlpack

new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

CODES = {"float64": (2, 64), "float32": (2, 32), "float16": (2, 16), "bfloat16": (4, 16)}


class Tensor:
    """An array of a library that nobody has heard of: NumPy's memory behind DLPack, and nothing else."""

    def __init__(self, array: np.ndarray, **about: Any) -> None:
        self.array = array
        self.about = {"versioned": True, "read_only": False, "device": (1, 0), "lanes": 1, "offset": 0, **about}

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.about["device"]

    def __dlpack__(self, *, stream: Any = None, max_version: tuple[int, int] | None = None) -> Any:
        return self._capsule(self.about["versioned"] and max_version is not None)

    def _capsule(self, versioned: bool) -> Any:
        array = self.array
        code, bits = self.about.get("element", CODES.get(array.dtype.name, (0, 8 * array.dtype.itemsize)))
        self.shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self.strides = (ctypes.c_int64 * array.ndim)(*(s // array.itemsize for s in array.strides))
        tensor = dlpack._Tensor(
            array.__array_interface__["data"][0] - self.about["offset"],
            *self.about["device"],
            array.ndim,
            code,
            bits,
            self.about["lanes"],
            self.shape,
            None if self.about.get("no_strides") else self.strides,
            self.about["offset"],
        )
        if versioned:
            self.keep = dlpack._Versioned(1, 0, None, None, int(self.about["read_only"]), tensor)
            return new_capsule(ctypes.addressof(self.keep), b"dltensor_versioned", None)
        self.keep = tensor
        return new_capsule(ctypes.addressof(tensor), b"dltensor", None)


class OldTensor(Tensor):
    """The same as exporters were before DLPack 1.0: they do not know `max_version`."""

    def __dlpack__(self, *, stream: Any = None) -> Any:  # type: ignore[override]
        return self._capsule(False)


class Wrapped:
    """Another library's array behind its own DLPack and nothing else."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **how: Any) -> Any:
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()
