"""Reading DLPack capsules: where the memory is, and what lies there.

NumPy's own importer knows no bfloat16 and hides whether memory is read-only, so the structure is read here, by ctypes. The capsule is not
consumed: it frees its structure when it goes, and the memory stays alive with the object that exported it.

The layout is dlpack.h's, versions 0 and 1 (https://dmlc.github.io/dlpack/latest/c_api.html).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from ..device import Device
from ..dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Format
from ..strides import row_major

_FORMATS = {(2, 64): FLOAT64, (2, 32): FLOAT32, (2, 16): FLOAT16, (4, 16): BFLOAT16}
_KINDS = {1: "cpu", 2: "cuda", 3: "cpu", 13: "cuda"}
_READ_ONLY = 1


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = (ctypes.py_object, ctypes.c_char_p)
_is_named = ctypes.pythonapi.PyCapsule_IsValid
_is_named.restype = ctypes.c_int
_is_named.argtypes = (ctypes.py_object, ctypes.c_char_p)


@dataclass(frozen=True)
class Exported:
    """What a capsule says: see `gpu_adam.arrays.ArrayRef` for the fields.

    Whether the memory may be written to is ``None`` where a capsule has no version and so cannot say.
    """

    device: Device
    format: Format
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    address: int
    writable: bool | None


def read(array: Any) -> Exported:
    """What ``array.__dlpack__()`` exports.

    Raises:
        TypeError: If the element type is not one of the four formats.
        ValueError: If the memory is on a device of another kind.
        BufferError: As the exporter raises it, for example for memory that it will not share.
    """
    try:
        capsule = array.__dlpack__(max_version=(1, 0))
    except TypeError:
        # Exporters older than DLPack 1.0 do not know the argument.
        capsule = array.__dlpack__()
    writable: bool | None
    if _is_named(capsule, b"dltensor_versioned"):
        versioned = _Versioned.from_address(_pointer_of(capsule, b"dltensor_versioned"))
        tensor = versioned.tensor
        writable = not versioned.flags & _READ_ONLY
    else:
        tensor, writable = _Tensor.from_address(_pointer_of(capsule, b"dltensor")), None
    kind = _KINDS.get(tensor.device_type)
    if kind is None:
        raise ValueError(f"lives on DLPack device type {tensor.device_type}: use memory of the CPU or of CUDA")
    found = _FORMATS.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if found is None:
        raise TypeError(
            f"has DLPack element type (code {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes): "
            "use float64, float32, float16 or bfloat16"
        )
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides:
        strides = tuple(tensor.strides[: tensor.ndim])
    else:
        strides = row_major(shape)
    device = Device(kind, tensor.device_id if kind == "cuda" else 0)
    return Exported(device, found, shape, strides, (tensor.data or 0) + tensor.byte_offset, writable)
