"""What can change under an array's name, or tells it from the next one, read for many arrays of one library in one go.

An address alone is no identity: memory is freed and given out again with another dtype, shape or size, and most libraries change dtype, shape,
strides or memory of an array in place. So all of it is compared, each time, and no reference to a caller's array is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .probe import Family
from .structs import Structs, owner_of, trusted

Reader = Callable[[Sequence[Any]], Iterable[Any]]
"""One trait of each of some arrays."""


class Seen(Protocol):
    """What some arrays of one library were like.

    Attributes:
        addresses: Where they lay; another object where one has moved.
    """

    addresses: NDArray[np.int64]

    def look(self, arrays: Sequence[Any]) -> NDArray[np.int64] | None:
        """The `addresses` of as many arrays of the same types now; ``None`` if they may differ from those that were seen in anything else."""


def seen(family: Family, arrays: Sequence[Any], *, held: bool = False) -> Seen | None:
    """What some arrays of one library are like; ``None`` where nothing can be told in bulk.

    Args:
        family: Their library.
        arrays: The arrays.
        held: Whether it is these very arrays that will be looked at, and somebody holds them until then.
    """
    try:
        if family == "numpy" and trusted():
            return Structs(arrays, held)
        readers = _readers(family)
        if family == "numpy" and held:
            readers = (*readers, *_OF_HELD_NUMPY)
        return _Columns(readers, arrays) if readers else None
    except _UNREADABLE:
        return None


def traits(family: Family, array: Any) -> tuple[list[Any], int] | None:
    """What `seen` compares, of one array, and its address; ``None`` where it cannot be told."""
    readers = _readers(family)
    try:
        if not readers:
            return None
        address, *rest = (one for reader in readers for one in reader((array,)))
    except _UNREADABLE:
        return None
    return rest, address


class _Columns:
    """As lists, one for each trait: see `Seen`."""

    def __init__(self, readers: Sequence[Reader], arrays: Sequence[Any]) -> None:
        self._address, *self._readers = readers
        self._values = [list(read(arrays)) for read in self._readers]
        self._list = list(self._address(arrays))
        self.addresses = np.array(self._list, np.int64)

    def look(self, arrays: Sequence[Any]) -> NDArray[np.int64] | None:
        try:
            for read, values in zip(self._readers, self._values, strict=True):
                if list(read(arrays)) != values:
                    return None
            now = list(self._address(arrays))
        except _UNREADABLE:
            return None
        if now != self._list:
            self._list, self.addresses = now, np.array(now, np.int64)
        return self.addresses


_UNREADABLE = (TypeError, AttributeError, ValueError, RuntimeError, BufferError)
"""What libraries raise where an array has no strides, no memory, or is none of theirs any more."""


def _each(read: Callable[[Any], Any]) -> Reader:
    return partial(map, read)


def _numba_address(array: Any) -> int:
    try:
        return int(array.gpu_data.device_pointer)
    except (AttributeError, TypeError):  # the simulator, and older bindings
        return int(array.__cuda_array_interface__["data"][0])


_LAID_OUT = tuple(_each(attrgetter(name)) for name in ("dtype", "shape", "strides"))

_READERS: dict[str, tuple[Reader, ...]] = {
    "numpy": (_each(lambda array: array.__array_interface__["data"][0]), *_LAID_OUT),
    "cupy": (_each(attrgetter("data.ptr")), *_LAID_OUT, _each(attrgetter("data.device_id"))),
    "numba": (_each(_numba_address), *_LAID_OUT),
}


def _owned(array: NDArray[Any]) -> tuple[int, int] | None:
    """The memory of the array that owns an array's elements: where it begins, and its bytes."""
    owner = owner_of(array)
    return None if owner is None else (owner.__array_interface__["data"][0], owner.nbytes)


_OF_HELD_NUMPY = (_each(attrgetter("flags.writeable")), _each(_owned))


def _readers(family: Family) -> tuple[Reader, ...]:
    """How the address of arrays of a library is read, then each trait; none for libraries of which nothing is known."""
    if family == "torch" and "torch" not in _READERS:
        torch = sys.modules["torch"]
        tensor, storage = torch.Tensor, torch.UntypedStorage
        _READERS["torch"] = (
            _each(tensor.data_ptr),
            *(_each(attrgetter(name)) for name in ("dtype", "shape")),
            *(_each(method) for method in (tensor.stride, tensor.get_device, tensor.is_neg)),
            # What holds the elements may have been freed, or cut, at the same address.
            lambda arrays: map(storage.nbytes, map(tensor.untyped_storage, arrays)),
        )
    return _READERS.get(family, ())
