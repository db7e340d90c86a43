"""What can change under an array's name, or tells it from the next one, read for many arrays of one library in one go.

An address alone is no identity: memory is freed and given out again with another dtype, shape or size, and most libraries change dtype,
shape, strides or memory of an array in place. So all of it is compared, each time, and no reference to a caller's array is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from functools import partial
from itertools import repeat
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .raised import raise_if_foreign


class Lifetime(Enum):
    """How long arrays stay that are looked at more than once."""

    GIVEN = 0
    """Others come the next time."""
    HELD = 1
    """These very arrays are looked at again, and somebody holds them until then."""
    OWN = 2
    """The same, and they were last seen in memory that is our own and stays as large as it is."""


Reader = Callable[[Sequence[Any]], Iterable[Any]]
"""One trait of each of some arrays."""

NOTHING: AbstractContextManager[Any] = nullcontext()

UNREADABLE = (TypeError, AttributeError, ValueError, RuntimeError, BufferError)
"""What libraries raise where an array has no strides, no memory, or is none of theirs any more."""


class Seen(Protocol):
    """What some arrays of one library were like.

    Attributes:
        addresses: Where they lay; another object where one has moved.
    """

    addresses: NDArray[np.int64]

    def look(self, arrays: Sequence[Any]) -> NDArray[np.int64] | None:
        """The `addresses` of as many arrays of the same types now; ``None`` if they may differ from the last ones in anything else."""


class Columns:
    """As lists, one for each trait: see `Seen`.

    Args:
        plainly: Makes a block in which the library answers by itself.
        readers: How the address is read, the device, then each trait.
        lasting: The traits that alone can change where memory never moves; else empty.
        alike: What tells in one call whether arrays have these traits; ``None`` for nothing.
        arrays: The arrays.
    """

    def __init__(
        self,
        plainly: Callable[[], AbstractContextManager[Any]],
        readers: Sequence[Reader],
        lasting: Sequence[Reader],
        alike: Callable[[Sequence[Any]], bool] | None,
        arrays: Sequence[Any],
    ) -> None:
        self._plainly = plainly
        self._alike = alike
        self._addresses, self._device, *self._rest = readers
        self._moves = not lasting
        self._rest = [*lasting] or self._rest
        self._values = [list(read(arrays)) for read in self._rest]
        self._devices = list(self._device(arrays))
        self._list = list(self._addresses(arrays))
        self.addresses = np.array(self._list, np.int64)

    def look(self, arrays: Sequence[Any]) -> NDArray[np.int64] | None:
        """As `Seen`."""
        try:
            with self._plainly():
                return self._look(arrays)
        except UNREADABLE as error:
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


def each(read: Callable[[Any], Any]) -> Reader:
    """What reads one array, for each of some."""
    return partial(map, read)


def nowhere(arrays: Sequence[Any]) -> Iterable[int]:
    """What stands for the device where a library has one only, or where an address tells it."""
    return repeat(0, len(arrays))


DTYPE, SHAPE, STRIDES = (each(attrgetter(name)) for name in ("dtype", "shape", "strides"))
