"""What can change under an array's name, or tells it from the next one, read for many arrays of one library in one go.

An address alone is no identity: memory is freed and given out again with another dtype, shape or size, and most libraries change dtype,
shape, strides or memory of an array in place. So all of it is compared, each time, and no reference to a caller's array is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from functools import partial
from itertools import repeat
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .guards import guard
from .probe import Family
from .raised import raise_if_foreign
from .structs import Structs, owner_of, trusted


class Lifetime(Enum):
    """How long arrays stay that are looked at more than once."""

    GIVEN = 0
    """Others come the next time."""
    HELD = 1
    """These very arrays are looked at again, and somebody holds them until then."""
    OWN = 2
    """The same, and they were last seen in memory that is our own and stays as large as it is."""


_MANY = 12
"""Arrays from which on their structures are gathered in less time than their attributes are read one by one."""

Reader = Callable[[Sequence[Any]], Iterable[Any]]
"""One trait of each of some arrays."""


class Seen(Protocol):
    """What some arrays of one library were like.

    Attributes:
        addresses: Where they lay; another object where one has moved.
    """

    addresses: NDArray[np.int64]

    def look(self, arrays: Sequence[Any]) -> NDArray[np.int64] | None:
        """The `addresses` of as many arrays of the same types now; ``None`` if they may differ from the last ones in anything else."""


def seen(family: Family, arrays: Sequence[Any], lifetime: Lifetime) -> Seen | None:
    """What some arrays of one library are like; ``None`` where nothing can be told in bulk."""
    try:
        # Of a few new arrays attributes are read sooner.
        if family == "numpy" and (lifetime is not Lifetime.GIVEN or len(arrays) >= _MANY) and trusted():
            return Structs(arrays, lifetime is not Lifetime.GIVEN)
        with plainly(family):
            alike = guard(arrays) if family == "torch" else None
            readers = _readers(family, lifetime, guarded=alike is not None)
            lasting = () if lifetime is Lifetime.GIVEN else _LASTING.get(family, ())
            return _Columns(family, readers, lasting, alike, arrays) if readers else None
    except _UNREADABLE as error:
        raise_if_foreign(error)
        return None


def plainly(family: Family) -> AbstractContextManager[Any]:
    """A block in which torch answers by itself: a mode, such as that of a default device, would hear of every single question."""
    return sys.modules["torch"]._C.DisableTorchFunction() if family == "torch" else _NOTHING


def traits_of(family: Family, array: Any) -> tuple[list[Any], int] | None:
    """What `seen` compares, of one array, and its address; ``None`` where it cannot be told."""
    readers = _readers(family)
    try:
        if not readers:
            return None
        with plainly(family):
            address, *rest = (one for reader in readers for one in reader((array,)))
    except _UNREADABLE as error:
        raise_if_foreign(error)
        return None
    return rest, address


class _Columns:
    """As lists, one for each trait: see `Seen`."""

    def __init__(
        self,
        family: Family,
        readers: Sequence[Reader],
        lasting: Sequence[Reader],
        alike: Callable[[Sequence[Any]], bool] | None,
        arrays: Sequence[Any],
    ) -> None:
        self._family = family
        self._alike = alike
        self._addresses, self._device, *self._rest = readers
        self._moves = not lasting
        self._rest = [*lasting] or self._rest
        self._values = [list(read(arrays)) for read in self._rest]
        self._devices = list(self._device(arrays))
        self._list = list(self._addresses(arrays))
        self.addresses = np.array(self._list, np.int64)

    def look(self, arrays: Sequence[Any]) -> NDArray[np.int64] | None:
        try:
            with plainly(self._family):
                return self._look(arrays)
        except _UNREADABLE as error:
            raise_if_foreign(error)
            return None

    def _look(self, arrays: Sequence[Any]) -> NDArray[np.int64] | None:
        for read, values in zip(self._rest, self._values, strict=True):
            if list(read(arrays)) != values:
                return None
        # Last: it ends the process where a tensor has no strides or sizes, which is an error of its strides above.
        if self._alike is not None and not self._alike(arrays):
            return None
        now = list(self._addresses(arrays)) if self._moves else self._list
        if now != self._list:
            # At the same address is the same device.
            if list(self._device(arrays)) != self._devices:
                return None
            self._list, self.addresses = now, np.array(now, np.int64)
        return self.addresses


_NOTHING = nullcontext()

_UNREADABLE = (TypeError, AttributeError, ValueError, RuntimeError, BufferError)
"""What libraries raise where an array has no strides, no memory, or is none of theirs any more."""


def _each(read: Callable[[Any], Any]) -> Reader:
    return partial(map, read)


def _numba_address(array: Any) -> int:
    try:
        return int(array.gpu_data.device_pointer)
    except (AttributeError, TypeError):  # the simulator, and older bindings
        return int(array.__cuda_array_interface__["data"][0])


def _owned(array: NDArray[Any]) -> tuple[int, int] | None:
    """The memory of the array that owns an array's elements: where it begins, and its bytes."""
    owner = owner_of(array)
    return None if owner is None else (owner.__array_interface__["data"][0], owner.nbytes)


def _nowhere(arrays: Sequence[Any]) -> Iterable[int]:
    """What stands for the device where a library has one only, or where an address tells it."""
    return repeat(0, len(arrays))


_DTYPE, _SHAPE, _STRIDES = (_each(attrgetter(name)) for name in ("dtype", "shape", "strides"))

_READERS: dict[str, tuple[Reader, ...]] = {
    "numpy": (_each(lambda array: array.__array_interface__["data"][0]), _nowhere, _DTYPE, _SHAPE, _STRIDES),
    "cupy": (_each(attrgetter("data.ptr")), _each(attrgetter("data.device_id")), _DTYPE, _SHAPE, _STRIDES),
    "numba": (_each(_numba_address), _nowhere, _DTYPE, _SHAPE, _STRIDES),
}
"""How the address is read, the device, then each trait."""


_LASTING: dict[str, tuple[Reader, ...]] = {
    "cupy": (_SHAPE,),
    "numba": (_each(attrgetter("gpu_data", "shape", "strides", "dtype")),),
}
"""What alone can change about an array of libraries that never move an array's memory: CuPy lets its shape be set, Numba any attribute."""


def _readers(family: Family, lifetime: Lifetime = Lifetime.GIVEN, *, guarded: bool = False) -> tuple[Reader, ...]:
    """As `_READERS`; none for libraries of which nothing is known; ``guarded`` without what torch's own guard compares."""
    if family == "torch":
        return _of_torch(lifetime, guarded)
    if family == "numpy" and lifetime is not Lifetime.GIVEN:
        return (*_READERS[family], _each(attrgetter("flags.writeable")), _each(_owned))
    return _READERS.get(family, ())


def _of_torch(lifetime: Lifetime, guarded: bool) -> tuple[Reader, ...]:
    torch = sys.modules["torch"]
    tensor, storage = torch.Tensor, torch.UntypedStorage
    readers = [_each(tensor.data_ptr), _each(tensor.get_device), _each(tensor.stride)]
    if not guarded:
        readers += [_DTYPE, _SHAPE, _each(tensor.is_neg)]
    if lifetime is not Lifetime.OWN:
        # What holds the elements may have been freed, or cut, at the same address.
        readers.append(lambda arrays: map(storage.nbytes, map(tensor.untyped_storage, arrays)))
    return tuple(readers)
