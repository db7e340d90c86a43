"""Which arrays some lists hold, told by their identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Roster:
    """Lists of arrays, remembered, to tell whether other lists hold the very same ones in the same order.

    Attributes:
        lists: The lists, copies of what was given: the caller's own are what may change.
    """

    def __init__(self) -> None:
        self.lists: list[Sequence[Any]] = []
        self._single: list[tuple[int, int]] = []

    def remember(self, lists: Sequence[Sequence[Any]], first: int = 0) -> None:
        """Take these lists for those from number ``first`` on."""
        # A tuple is none of the lists that are equal to it.
        self.lists[first:] = [one if isinstance(one, tuple) else list(one) for one in lists]
        if first == 0:
            self._single.clear()
        for index, members in enumerate(self.lists[first:], start=first):
            self._single.extend((index, k) for k, one in enumerate(members) if _is_single(one))

    def holds(self, lists: Sequence[Sequence[Any]]) -> bool:
        """Whether these lists hold the arrays that are remembered."""
        try:
            # Lists compare their elements by identity first, which takes nanoseconds each. Two arrays that are not identical have no
            # truth value, which is an error, unless they have one element: those are looked at again.
            same = lists == self.lists
        except Exception:
            # Of whatever class the arrays' libraries raise; identical arrays run no code in which a handler could.
            return False
        return bool(same) and all(lists[index][k] is self.lists[index][k] for index, k in self._single)


def _is_single(array: Any) -> bool:
    """Whether the array may be equal to another one without an error: it has one element, or its comparison is not an array's."""
    size = getattr(array, "size", None)
    if callable(size):
        size = array.numel() if hasattr(array, "numel") else None
    return not isinstance(size, int) or size <= 1
