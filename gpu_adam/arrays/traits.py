"""What can change under an array's name, or tells it from the next one, read for many arrays of one library in one go.

An address alone is no identity: memory is freed and given out again with another dtype, shape or size, and most libraries change dtype,
shape, strides or memory of an array in place. So all of it is compared, each time, and no reference to a caller's array is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from enum import Enum
from functools import partial
from itertools import compress, repeat
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

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


Check = Callable[..., bool]
"""Whether as many arrays, each an argument, have the traits of others."""

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

    def among(self, which: NDArray[np.bool_]) -> Seen:
        """What some of the arrays were like, where others are looked at each time."""

    def joined(self, other: Seen) -> Seen | None:
        """What these arrays and then others were like, where others are looked at each time; ``None`` where they do not go together."""


_BLOCK = 16
"""Arrays of a block: a larger one takes less time where all are there, and more where one is absent."""


class _Block(NamedTuple):
    """Arrays that follow each other: how many, what tells of all of them in one call, and those of their traits that it compares."""

    size: int
    check: Check | None
    values: Sequence[list[Any]]

    def among(self, which: bytes) -> _Block:
        # What tells of a block tells nothing of a part of it.
        return _Block(which.count(1), None, [list(compress(values, which)) for values in self.values])


class Columns:
    """As lists, one for each trait: see `Seen`.

    Args:
        plainly: Makes a block in which the library answers by itself.
        readers: How the address is read, the device, then each trait.
        lasting: The traits that alone can change where memory never moves; else empty.
        guarded: How many of the last traits ``guard`` compares.
        guard: From arrays to what tells in one call whether as many others have these traits; it may return ``None`` for nothing.
        arrays: The arrays.
        in_blocks: Whether some of them may be absent when others are looked at: then it is told of a block at a time, so that the traits
            need be read only of the blocks of which one is absent.
    """

    def __init__(
        self,
        plainly: Callable[[], AbstractContextManager[Any]],
        readers: Sequence[Reader],
        lasting: Sequence[Reader],
        guarded: int,
        guard: Callable[[Sequence[Any]], Check | None],
        arrays: Sequence[Any],
        *,
        in_blocks: bool,
    ) -> None:
        self._plainly = plainly
        self._addresses, self._device, *rest = readers
        self._moves = not lasting
        rest = [*lasting] or rest
        self._check = guard(arrays) if guarded else None
        if self._check is None:
            guarded = 0
        self._read, self._guarded = rest[: len(rest) - guarded], rest[len(rest) - guarded :]
        self._values = [list(read(arrays)) for read in self._read]
        self._blocks: list[_Block] = []
        if guarded and in_blocks:
            blocks = [arrays[start : start + _BLOCK] for start in range(0, len(arrays), _BLOCK)]
            self._blocks = [_Block(len(own), guard(own), [list(read(own)) for read in self._guarded]) for own in blocks]
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
        for read, values in zip(self._read, self._values, strict=True):
            if list(read(arrays)) != values:
                return None
        # Last: it ends the process where a tensor has no strides or sizes, which is an error of its strides above.
        if not (self._look_at_blocks(arrays) if self._check is None else self._check(*arrays)):
            return None
        now = list(self._addresses(arrays)) if self._moves else self._list
        if now != self._list:
            # At the same address is the same device, and a guard of all of them has compared it.
            if self._check is None and list(self._device(arrays)) != self._devices:
                return None
            self._list, self.addresses = now, np.array(now, np.int64)
        return self.addresses

    def _look_at_blocks(self, arrays: Sequence[Any]) -> bool:
        start = 0
        for block in self._blocks:
            own = arrays[start : start + block.size]
            start += block.size
            if block.check is not None:
                if not block.check(*own):
                    return False
            elif [list(read(own)) for read in self._guarded] != block.values:
                return False
        return True

    def among(self, which: NDArray[np.bool_]) -> Columns:
        """As `Seen`."""
        chosen = which.tobytes()
        values = [list(compress(column, chosen)) for column in self._values]
        count = chosen.count(1)
        # Mostly there is one device.
        devices = self._devices[:count]
        if devices.count(self._devices[0]) < count or self._devices.count(self._devices[0]) < len(self._devices):
            devices = list(compress(self._devices, chosen))
        blocks, start = [], 0
        for block in self._blocks:
            own = chosen[start : start + block.size]
            start += block.size
            if 0 not in own:
                blocks.append(block)
            elif 1 in own:
                blocks.append(block.among(own))
        return self._like(values, blocks, devices, self.addresses[which])

    def joined(self, other: Seen) -> Columns | None:
        """As `Seen`."""
        if not isinstance(other, Columns):
            return None
        values = [own + more for own, more in zip(self._values, other._values, strict=True)]
        addresses = np.concatenate((self.addresses, other.addresses))
        return self._like(values, self._blocks + other._blocks, self._devices + other._devices, addresses)

    def _like(
        self, values: list[list[Any]], blocks: list[_Block], devices: list[Any], addresses: NDArray[np.int64]
    ) -> Columns:
        """The same of other arrays, whose addresses are to be read anew."""
        some = copy(self)
        some._values, some._blocks, some._devices, some.addresses = values, blocks, devices, addresses
        some._list, some._check = [], None
        return some


def each(read: Callable[[Any], Any]) -> Reader:
    """What reads one array, for each of some."""
    return partial(map, read)


def nowhere(arrays: Sequence[Any]) -> Iterable[int]:
    """What stands for the device where a library has one only, or where an address tells it."""
    return repeat(0, len(arrays))


DTYPE, SHAPE, STRIDES = (each(attrgetter(name)) for name in ("dtype", "shape", "strides"))
