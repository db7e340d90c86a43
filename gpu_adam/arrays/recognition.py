"""Which gradients of a step differ from the last ones in their addresses at most: told in bulk, library by library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress, repeat
from operator import is_not, itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import Library, Lifetime, Seen


@dataclass
class _Part:
    """Gradients of one library.

    Attributes:
        library: Which one.
        indices: Whose.
        pick: Finds them among all.
        seen: What they were like.
        known: Their addresses, as they were learned; `_UNKNOWN` where nobody has learned them yet.
    """

    library: Library
    indices: NDArray[np.int64]
    pick: Callable[[Sequence[Any]], Sequence[Any]]
    seen: Seen
    known: NDArray[np.int64]

    def among(self, present: NDArray[np.bool_]) -> _Part | None:
        """Those of them that are present; ``None`` if none is."""
        here = present[self.indices]
        which = here.tobytes()
        if 0 not in which:
            return replace(self, known=_UNKNOWN)
        if 1 not in which:
            return None
        pick = partial(_chosen, self.pick, which)
        return _Part(self.library, self.indices[here], pick, self.seen.among(here), _UNKNOWN)


_NONE = type(None)
_UNKNOWN: NDArray[np.int64] = np.zeros(0, np.int64)


def _part(library: Library, indices: NDArray[np.int64], count: int, seen: Seen) -> _Part:
    """A part of ``count`` gradients, whose addresses nobody has learned."""
    return _Part(library, indices, _picking(indices.tolist(), count), seen, _UNKNOWN)


def _among(parts: Sequence[_Part], present: NDArray[np.bool_]) -> list[_Part]:
    """What of the parts is present."""
    return [some for some in (part.among(present) for part in parts) if some is not None]


def _joined(parts: Sequence[_Part], absent: Sequence[_Part], count: int) -> list[_Part]:
    """Parts of what is present and of what is absent, one for each library where that can be."""
    whole = list(parts)
    for part in absent:
        for place, other in enumerate(whole):
            seen = other.seen.joined(part.seen) if other.library is part.library else None
            if seen is not None:
                whole[place] = _part(part.library, np.concatenate((other.indices, part.indices)), count, seen)
                break
        else:
            whole.append(part)
    return whole


class Recognition:
    """What the last gradients were like; of one that is absent now, what it was like when it was there.

    No reference to them is kept: a strong one would keep a gradient alive that the caller has let go, for a whole backward pass, and a weak
    one keeps NumPy from resizing it and torch from swapping it.

    Attributes:
        held: The list whose arrays were seen, if it is one that stays as it is.
    """

    def __init__(self, count: int) -> None:
        self.held: Sequence[Any] | None = None
        self._present: NDArray[np.bool_] = np.zeros(count, np.bool_)
        self._types: list[type] = [_NONE] * count
        self._kinds: list[type] = [_NONE] * count
        self._libraries: list[Library | None] = [None] * count
        self._traits: list[list[Any] | None] = [None] * count
        self._all: list[_Part] = []
        self._parts: list[_Part] = []
        self._alone: list[int] = []
        self._misses = self._is_joined = False

    def is_unchanged(self, arrays: Sequence[Any], lifetime: Lifetime) -> bool:
        """Whether these are a list's very gradients that were seen last, and nothing about any of them has changed."""
        return (
            arrays is self.held
            and lifetime is not Lifetime.GIVEN
            and not self._alone
            and all(part.seen.look(part.pick(arrays)) is part.known for part in self._parts)
        )

    def look(self, arrays: Sequence[Any], addresses: NDArray[np.int64]) -> tuple[list[int], NDArray[np.bool_]]:
        """The gradients that are not like the last ones, or may not be, by their parameters' numbers; and for each whether it is there.

        Args:
            arrays: One gradient or ``None`` for each parameter.
            addresses: Their addresses as far as they are known; gets those of all others that are there.
        """
        if not (arrays is self.held or (self.held is None and self._follow(arrays))):
            present = _presence(arrays)
            return self._one_by_one(arrays, np.flatnonzero(present).tolist(), addresses), present
        unknown = [index for index in self._alone if arrays[index] is not None]
        for part in self._parts:
            found = part.seen.look(part.pick(arrays))
            if found is None:
                self._misses = True
                indices = part.indices.tolist()
                # What was done in place to an array that is held shows in no trait of it where its memory is no longer its own.
                unknown.extend(indices if self.held is not None else self._one_by_one(arrays, indices, addresses))
            elif found is not part.known:
                addresses[part.indices] = found
        return unknown, self._present

    def _follow(self, arrays: Sequence[Any]) -> bool:
        """Whether all that are there are of the types that they were last; if others are there, these are looked at from now on."""
        types = list(map(type, arrays))
        if types == self._types:
            return True
        present = _presence(arrays)
        absent = np.flatnonzero(~present).tolist()
        for index in absent:
            types[index] = self._kinds[index]
        if types != self._kinds:
            return False
        for index in absent:
            types[index] = _NONE
        parts = _among(self._all, present)
        # In one operation, as all that an exception may come in the middle of.
        vars(self).update(_types=types, _parts=parts, _present=present)
        return True

    def _one_by_one(self, arrays: Sequence[Any], indices: Sequence[int], addresses: NDArray[np.int64]) -> list[int]:
        unknown = []
        for index in indices:
            array, library = arrays[index], self._libraries[index]
            found = None if library is None or type(array) is not self._kinds[index] else library.traits_of(array)
            if found is None or found[0] != self._traits[index]:
                unknown.append(index)
            else:
                addresses[index] = found[1]
        return unknown

    def learn(
        self,
        arrays: Sequence[Any],
        present: NDArray[np.bool_],
        fresh: Mapping[int, Library | None],
        lifetime: Lifetime,
    ) -> None:
        """Remember what gradients are like.

        Args:
            arrays: One gradient or ``None`` for each parameter.
            present: Which of them are there, as `look` has told.
            fresh: The libraries of those that `look` did not know; ``None`` for a gradient that must be looked at each time.
            lifetime: Of the list and its arrays.
        """
        held = None if lifetime is Lifetime.GIVEN else arrays
        for index, library in fresh.items():
            found = None if library is None else library.traits_of(arrays[index])
            self._libraries[index], self._traits[index] = (library, found[0]) if found else (None, None)
        types = self._types if arrays is self.held else list(map(type, arrays))
        # Those that were seen together are told in less time than such as were joined.
        is_known = not (self._misses or fresh.keys() - set(self._alone) or (self._is_joined and present.all()))
        if is_known and types == self._types and self.held is held:
            for part in self._parts:
                part.known = part.seen.addresses
            return
        # Where others come each time, they are compared with what those were like that are absent now.
        before = self._all if held is None and self.held is None else []
        self._types, self._present, self.held, self._misses = types, present, held, False
        members: dict[Library | None, list[int]] = {}
        for index in np.flatnonzero(present).tolist():
            self._kinds[index] = types[index]
            members.setdefault(self._libraries[index], []).append(index)
        self._parts, self._alone = [], [index for index in self._alone if not present[index]]
        for library, indices in members.items():
            look = None if library is None else library.seen(_picking(indices, len(arrays))(arrays), lifetime)
            if library is None or look is None:
                self._alone.extend(indices)
            else:
                self._parts.append(_part(library, np.array(indices, np.int64), len(arrays), look))
                self._parts[-1].known = look.addresses
        absent = _among(before, ~present)
        self._all = _joined(self._parts, absent, len(arrays))
        self._is_joined = bool(absent)
        told = {*self._alone}.union(*(part.indices.tolist() for part in self._all))
        self._kinds = [kind if index in told else _NONE for index, kind in enumerate(self._kinds)]


def _presence(arrays: Sequence[Any]) -> NDArray[np.bool_]:
    return np.frombuffer(bytes(map(is_not, arrays, repeat(None))), np.bool_)


def _chosen(pick: Callable[[Sequence[Any]], Sequence[Any]], which: bytes, arrays: Sequence[Any]) -> Sequence[Any]:
    return list(compress(pick(arrays), which))


def _picking(indices: list[int], count: int) -> Callable[[Sequence[Any]], Sequence[Any]]:
    if indices == list(range(count)):
        return lambda arrays: arrays
    if len(indices) == 1:
        return lambda arrays: (arrays[indices[0]],)
    return itemgetter(*indices)
