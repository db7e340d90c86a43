"""NumPy's arrays."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...device import Device
from ...dtypes import format_of
from ..library import ArrayRef, Library, check_within, in_elements, name_of
from ..structs import Structs, owner_of, trusted
from ..traits import DTYPE, SHAPE, STRIDES, Lifetime, Reader, Seen, each, nowhere

_PLAIN = (np.ndarray, np.memmap)
_HARMLESS = (*_PLAIN, np.matrix, np.recarray)
"""NumPy's own classes whose elements are just what lies in memory."""

_MEANING = ("__array_ufunc__", "__array_function__", "__array_finalize__", "__array_wrap__")
"""What a subclass of ndarray overrides that means more than its memory: a mask, a unit."""

_MANY = 12
"""Arrays from which on their structures are gathered in less time than their attributes are read one by one."""


class _Numpy(Library):
    """NumPy, in host memory."""

    name = "numpy"

    def owns(self, kind: type) -> bool:
        return issubclass(kind, (np.ndarray, np.generic))

    def describe(self, array: Any, writable: bool) -> tuple[ArrayRef, bool]:
        if isinstance(array, np.generic):
            if writable:
                raise TypeError(
                    f"is a {name_of(array)}: use a NumPy array, which can change where a number cannot: numpy.array(x)"
                )
            # What NumPy's arithmetic makes of 0-dimensional arrays.
            array = np.asarray(array)
        check_class(array, writable)
        format = format_of(array.dtype)
        strides = in_elements(array.strides, format)
        ref = ArrayRef(self, Device("cpu"), format, array.shape, strides, self.address(array), array)
        owner = owner_of(array)
        if owner is not None and owner is not array:
            start = self.address(owner)
            check_within(ref, start, start + owner.nbytes, "the array that it is a view of")
        return ref, array.flags.writeable

    def readers(self, lifetime: Lifetime = Lifetime.GIVEN) -> tuple[Reader, ...]:
        return _READERS if lifetime is Lifetime.GIVEN else _READERS_OF_HELD

    def address(self, array: Any) -> int:
        return array.__array_interface__["data"][0]  # type: ignore[no-any-return]

    def seen(self, arrays: Sequence[Any], lifetime: Lifetime) -> Seen | None:
        # Of a few new arrays attributes are read sooner.
        held = lifetime is not Lifetime.GIVEN
        return Structs(arrays, held) if (held or len(arrays) >= _MANY) and trusted() else super().seen(arrays, lifetime)

    def copy(self, array: Any) -> Any:
        return array.copy(order="K")

    def contiguous(self, array: Any) -> Any:
        return np.ascontiguousarray(array)

    def read(self, array: Any) -> NDArray[Any]:
        return array  # type: ignore[no-any-return]

    def write(self, array: Any, host: NDArray[Any]) -> None:
        array[...] = host

    def assign(self, to: ArrayRef, value: Any) -> None:
        to.array[...] = value

    def zero(self, array: Any) -> None:
        array.fill(0)


def check_class(array: NDArray[Any], writable: bool) -> None:
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


def _owned(array: NDArray[Any]) -> tuple[int, int] | None:
    """The memory of the array that owns an array's elements: where it begins, and its bytes."""
    owner = owner_of(array)
    return None if owner is None else (NUMPY.address(owner), owner.nbytes)


NUMPY = _Numpy()
_READERS: tuple[Reader, ...] = (each(NUMPY.address), nowhere, DTYPE, SHAPE, STRIDES)
_READERS_OF_HELD = (*_READERS, each(attrgetter("flags.writeable")), each(_owned))
