"""NumPy arrays looked at by the thousand: the words of their structures, gathered in one go from where they lie.

Reading one attribute of one array takes a fraction of a microsecond, and all arrays are looked at before each step. What tells two arrays
apart lies in ``PyArrayObject_fields``, which is part of NumPy's binary interface
(https://numpy.org/doc/stable/reference/c-api/types-and-structures.html): the address, the number of dimensions, pointers to shape and
strides, the base, the dtype, the flags. Where a Python or a NumPy lays them out otherwise, `trusted` says so, and attributes are read
instead.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..process.uninterrupted import uninterruptedly
from .traits import Seen

_WORD = 8
_FIRST = object.__basicsize__
"""Bytes of what every object begins with; NumPy's fields follow."""
_DATA, _NDIM, _SHAPE, _STRIDES, _BASE, _DTYPE, _FLAGS = range(_FIRST, _FIRST + 7 * _WORD, _WORD)
_HEAD = np.array([_DATA, _NDIM, _SHAPE, _STRIDES, _DTYPE, _FLAGS], np.int64)
_INT = np.int64(0xFFFFFFFF)
"""The number of dimensions and the flags are 32 bits wide; what pads them is nobody's."""


class _Everything:
    """All memory, as an array of words that begins at the second one: NumPy takes none at address 0 for its own."""

    __array_interface__ = {"shape": (1 << 53,), "typestr": "<i8", "data": (_WORD, True), "version": 3}  # noqa: RUF012


_memory: NDArray[np.int64] = np.asarray(_Everything())


def _places(addresses: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the words at these addresses, multiples of 8, stand among all."""
    return (addresses - _WORD) // _WORD


def _words(addresses: NDArray[np.int64]) -> NDArray[np.int64]:
    """The words at these addresses, of memory that is alive."""
    words: NDArray[np.int64] = _memory.take(_places(addresses))
    return words


def _bytes_at(places: NDArray[np.int64]) -> bytes:
    """The words at these places as they lie there: NumPy compares two arrays in many times the time of two strings of bytes."""
    return _memory.take(places).tobytes()


def _ids(arrays: Sequence[Any]) -> NDArray[np.int64]:
    return np.fromiter(map(id, arrays), np.int64, len(arrays))


def _heads(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each field of `_HEAD` one row of its words."""
    heads = _words((ids + _HEAD[:, None]).reshape(-1)).reshape(len(_HEAD), -1)
    heads[1] &= _INT
    heads[5] &= _INT
    return heads


class Structs:
    """What the structures of some NumPy arrays said; see `gpu_adam.arrays.traits.Seen`.

    Args:
        arrays: NumPy arrays.
        held: Whether it is these very arrays that will be looked at, and somebody holds them until then. Their flags are then looked at
            too, and the arrays that own what they view.
    """

    addresses: NDArray[np.int64]

    def __init__(self, arrays: Sequence[Any], held: bool) -> None:
        watched = list(arrays)
        if held:
            self._owners = [owner for array in arrays if (owner := owner_of(array)) is not None and owner is not array]
            watched += self._owners
        ids = _ids(watched)
        heads = _heads(ids)
        self.addresses = heads[0, : len(arrays)].copy()
        # A dtype that is alive keeps its address to itself.
        self._dtypes = {id(dtype): dtype for dtype in (array.dtype for array in arrays)}
        self._ndims, self._dtype_ids = heads[1].copy(), heads[4].copy()
        self._lay_out()
        extents = self._extents_of(heads)
        self._extents = _words(extents)
        self._held = held
        if held:
            # Neighbours in memory side by side, for most of the time goes into fetching it.
            self._heads_at, self._extents_at = _places((ids[:, None] + _HEAD).reshape(-1)), _places(np.sort(extents))
            self._held_heads, self._held_extents = _bytes_at(self._heads_at), _bytes_at(self._extents_at)

    def look(self, arrays: Sequence[Any]) -> NDArray[np.int64] | None:
        """The addresses of these arrays, of the types of those that were seen; ``None`` if they may differ from those in anything else."""
        if self._held:
            # Shape and strides may be read where they were only while the structures still point there.
            same = _bytes_at(self._heads_at) == self._held_heads and _bytes_at(self._extents_at) == self._held_extents
            return self.addresses if same else None
        heads = _heads(_ids(arrays))
        if (
            (heads[1] != self._ndims).any()
            or (heads[4] != self._dtype_ids).any()
            or (_words(self._extents_of(heads)) != self._extents).any()
        ):
            return None
        if (heads[0] != self.addresses).any():
            self.addresses = heads[0].copy()
        return self.addresses

    def among(self, which: NDArray[np.bool_]) -> Structs:
        """As `gpu_adam.arrays.traits.Seen`."""
        some = Structs.__new__(Structs)
        some.addresses = self.addresses[which]
        some._dtypes = self._dtypes
        some._ndims, some._dtype_ids = self._ndims[which], self._dtype_ids[which]
        kept = which[self._which]
        some._extents = self._extents.reshape(2, -1)[:, kept].reshape(-1)
        some._which, some._offsets = (which.cumsum() - 1)[self._which[kept]], self._offsets[kept]
        some._held = False
        return some

    def joined(self, other: Seen) -> Structs | None:
        """As `gpu_adam.arrays.traits.Seen`."""
        if not isinstance(other, Structs):
            return None
        both = Structs.__new__(Structs)
        both.addresses = np.concatenate((self.addresses, other.addresses))
        both._dtypes = self._dtypes | other._dtypes
        both._ndims = np.concatenate((self._ndims, other._ndims))
        both._dtype_ids = np.concatenate((self._dtype_ids, other._dtype_ids))
        extents = [one._extents.reshape(2, -1) for one in (self, other)]
        both._extents = np.concatenate(extents, axis=1).reshape(-1)
        both._held = False
        both._lay_out()
        return both

    def _lay_out(self) -> None:
        """For each size, as for each stride, whose it is, and how many bytes it lies behind its first."""
        starts = np.cumsum(self._ndims) - self._ndims
        self._which = np.repeat(np.arange(len(self._ndims)), self._ndims)
        self._offsets = _WORD * (np.arange(len(self._which)) - starts[self._which])

    def _extents_of(self, heads: NDArray[np.int64]) -> NDArray[np.int64]:
        """The addresses of all sizes, and of all strides."""
        places: NDArray[np.int64] = heads[2:4, self._which] + self._offsets
        return places.reshape(-1)


def owner_of(array: NDArray[Any]) -> NDArray[Any] | None:
    """The array that owns the memory which ``array`` shows, itself perhaps; ``None`` where no array does."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return owner if owner.flags.owndata else None


@functools.cache
@uninterruptedly
def trusted() -> bool:
    """Whether the structures lie where they are looked for: arrays of several kinds are compared with their attributes."""
    if sys.byteorder != "little" or sys.implementation.name != "cpython" or sys.maxsize <= 1 << 32:
        return False
    if np.ndarray.__basicsize__ < _FIRST + 7 * _WORD:
        return False
    frozen = np.ones((3, 5, 2), np.float16).transpose(2, 0, 1)[:, ::-1]
    frozen.flags.writeable = False
    samples: list[NDArray[Any]] = [
        np.ones((2, 3), np.float32),
        np.zeros(()),
        np.arange(7.0)[1::2],
        np.zeros((0, 4)),
        frozen,
    ]
    heads = _heads(_ids(samples))
    pairs = zip(samples, heads.T.tolist(), strict=True)
    if any(
        (array.ctypes.data, array.ndim, id(array.dtype), array.flags.num) != (data, ndim, dtype, flags)
        for array, (data, ndim, _, _, dtype, flags) in pairs
    ):
        return False
    return all(
        tuple(_words(start + _WORD * np.arange(array.ndim)).tolist()) == found
        for array, head in zip(samples, heads.T, strict=True)
        for start, found in ((head[2], array.shape), (head[3], array.strides))
    )
