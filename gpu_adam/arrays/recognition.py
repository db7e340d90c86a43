"""Which gradients of a step differ from the last ones in their addresses at most: told in bulk, library by library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import Library, Lifetime, Seen


@dataclass
class _Part:
    """The gradients of one library.

    Attributes:
        indices: Whose.
        pick: Finds them among all.
        seen: What they were like.
        known: Their addresses, as they were learned.
    """

    indices: NDArray[np.int64]
    pick: Callable[[Sequence[Any]], Sequence[Any]]
    seen: Seen
    known: NDArray[np.int64]


class Recognition:
    """What the last gradients were like.

    No reference to them is kept: a strong one would keep a gradient alive that the caller has let go, for a whole backward pass, and a weak
    one keeps NumPy from resizing it and torch from swapping it.

    Attributes:
        held: The list whose arrays were seen, if it is one that stays as it is.
    """

    def __init__(self, count: int) -> None:
        self.held: Sequence[Any] | None = None
        self._types: list[type] = [type(None)] * count
        self._libraries: list[Library | None] = [None] * count
        self._traits: list[list[Any] | None] = [None] * count
        self._parts: list[_Part] = []
        self._alone: list[int] = []
        self._misses = False

    def is_unchanged(self, arrays: Sequence[Any], lifetime: Lifetime) -> bool:
        """Whether these are a list's very gradients that were seen last, and nothing about any of them has changed."""
        return (
            arrays is self.held
            and lifetime is not Lifetime.GIVEN
            and not self._alone
            and all(part.seen.look(part.pick(arrays)) is part.known for part in self._parts)
        )

    def look(self, arrays: Sequence[Any], addresses: NDArray[np.int64]) -> list[int]:
        """The gradients that are not like the last ones, or may not be, by their parameters' numbers.

        Args:
            arrays: One gradient or ``None`` for each parameter.
            addresses: Their addresses as far as they are known; gets those of all others.
        """
        if not (arrays is self.held or (self.held is None and list(map(type, arrays)) == self._types)):
            return self._one_by_one(arrays, range(len(arrays)), addresses)
        unknown = list(self._alone)
        for part in self._parts:
            found = part.seen.look(part.pick(arrays))
            if found is None:
                self._misses = True
                indices = part.indices.tolist()
                # What was done in place to an array that is held shows in no trait of it where its memory is no longer its own.
                unknown.extend(indices if self.held is not None else self._one_by_one(arrays, indices, addresses))
            elif found is not part.known:
                addresses[part.indices] = found
        return unknown

    def _one_by_one(self, arrays: Sequence[Any], indices: Sequence[int], addresses: NDArray[np.int64]) -> list[int]:
        unknown = []
        for index in indices:
            array, library = arrays[index], self._libraries[index]
            found = None if library is None or type(array) is not self._types[index] else library.traits_of(array)
            if found is None or found[0] != self._traits[index]:
                unknown.append(index)
            else:
                addresses[index] = found[1]
        return unknown

    def learn(self, arrays: Sequence[Any], fresh: Mapping[int, Library | None], lifetime: Lifetime) -> None:
        """Remember what gradients are like.

        Args:
            arrays: One gradient or ``None`` for each parameter.
            fresh: The libraries of those that `look` did not know; ``None`` for a gradient that must be looked at each time.
            lifetime: Of the list and its arrays.
        """
        held = None if lifetime is Lifetime.GIVEN else arrays
        for index, library in fresh.items():
            found = None if library is None else library.traits_of(arrays[index])
            self._libraries[index], self._traits[index] = (library, found[0]) if found else (None, None)
        types = self._types if arrays is self.held else list(map(type, arrays))
        if not self._misses and types == self._types and self.held is held and not fresh.keys() - set(self._alone):
            for part in self._parts:
                part.known = part.seen.addresses
            return
        self._types, self.held = types, held
        self._parts, self._alone, self._misses = [], [], False
        members: dict[Library | None, list[int]] = {}
        for index, array in enumerate(arrays):
            if array is not None:
                members.setdefault(self._libraries[index], []).append(index)
        for library, indices in members.items():
            pick = _picking(indices, len(arrays))
            look = None if library is None else library.seen(pick(arrays), lifetime)
            if look is None:
                self._alone.extend(indices)
            else:
                self._parts.append(_Part(np.array(indices), pick, look, look.addresses))


def _picking(indices: Sequence[int], count: int) -> Callable[[Sequence[Any]], Sequence[Any]]:
    if len(indices) == count:
        return lambda arrays: arrays
    if len(indices) == 1:
        return lambda arrays: (arrays[indices[0]],)
    return itemgetter(*indices)
