"""Which objects have an array's memory and mean something else by it, or may not be changed: refused by name, with what to use instead."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..messages import cut

_PLAIN = (np.ndarray, np.memmap)
_HARMLESS = (*_PLAIN, np.matrix, np.recarray)
"""NumPy's own classes whose elements are just what lies in memory."""

_MEANING = ("__array_ufunc__", "__array_function__", "__array_finalize__", "__array_wrap__")
"""What a subclass of ndarray overrides that means more than its memory: a mask, a unit."""

_IMMUTABLE = frozenset({"jax", "jaxlib", "tensorflow"})
"""Libraries whose arrays never change, though not all of their versions say so."""

_MUTABLE = frozenset({"paddle", "oneflow", "mxnet", "tvm"})
"""Libraries that write to their own arrays in place, whatever DLPack they speak."""


def name_of(array: Any) -> str:
    """The full name of an object's class."""
    return cut(f"{type(array).__module__}.{type(array).__qualname__}")


def check_numpy(array: np.ndarray[Any, Any], writable: bool) -> None:
    """Nothing, if the array is no more than its memory.

    Raises:
        TypeError: For a masked array, and for a subclass with a meaning of its own; of an array that is to be updated, for any subclass
            but a memory map.
    """
    kind = type(array)
    if kind in _PLAIN:
        return
    masked = sys.modules.get("numpy.ma")
    if masked is not None and isinstance(array, masked.MaskedArray):
        raise TypeError(
            f"is a {name_of(array)}, whose mask a step cannot heed: use an array without a mask, such as its .data or .filled(0)"
        )
    if writable or (
        kind not in _HARMLESS and any(getattr(kind, name) is not getattr(np.ndarray, name) for name in _MEANING)
    ):
        raise TypeError(
            f"is a {name_of(array)}, a subclass of numpy.ndarray that may mean more than its elements: "
            "use numpy.asarray(x), which shares its memory"
        )


def check_torch(tensor: Any, torch: Any) -> None:
    """Nothing, if the tensor is a dense one with memory of its own.

    Raises:
        TypeError: For a subclass that computes in its own way, such as a DTensor.
        ValueError: For a lazy, nested or sparse tensor, and for a lazy negation.
    """
    if torch.nn.parameter.is_lazy(tensor):
        raise ValueError("has no shape yet: run its lazy module once, and then make the optimizer")
    if tensor.is_nested:
        raise ValueError(
            "is a nested tensor, whose parts differ in shape: use dense tensors, such as those of its unbind()"
        )
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        remedy = "its to_local()" if hasattr(tensor, "to_local") else "a plain torch.Tensor"
        raise TypeError(f"is a {name_of(tensor)}, whose elements do not lie in memory of its own: use {remedy}")
    if tensor.layout is not torch.strided:
        raise ValueError(f"has layout {tensor.layout}: use a dense tensor")
    if tensor.is_neg():
        raise ValueError("is a lazy negation of what lies in memory: use its resolve_neg()")


def check_mutable(array: Any) -> None:
    """Nothing, unless the array's library never changes an array.

    Raises:
        TypeError: If it is such a library's.
    """
    kind = type(array)
    if hasattr(kind, "__jax_array__") or any(_library(base) in _IMMUTABLE for base in kind.__mro__):
        raise TypeError(
            f"is a {name_of(array)}, which is immutable: keep parameters in arrays of a library that updates them in place"
        )


def may_be_written(array: Any, address: int) -> bool:
    """Whether somebody but DLPack, which did not say, tells that the array's memory may be written to."""
    interface = getattr(array, "__array_interface__", None)
    if isinstance(interface, dict) and interface.get("data") == (address, False):
        return True
    return any(_library(base) in _MUTABLE for base in type(array).__mro__)


def _library(kind: type) -> str:
    return kind.__module__.partition(".")[0]
