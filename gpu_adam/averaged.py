"""The block in which the parameters are their averages."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from .uninterrupted import prepared


class Averaged(io.IOBase):
    """A block that ends whatever the handlers of signals raise: the parameters are then what they were.

    An exception may come right where a block ends, before the first line of an ``__exit__`` that is written in Python. `io.IOBase` has one
    that is C code and calls ``close``, and so has its destructor; here ``close`` is C code too, until it has handed over the work.
    """

    def __init__(self, begin: Callable[[Averaged], None], end: Callable[[Averaged], None]) -> None:
        """Nothing is begun yet.

        Args:
            begin: Makes the parameters their averages.
            end: Makes them what they were; nothing, if that has been done, or not been begun.
        """
        self._begin = begin
        self._end = end
        self.close: Callable[[], Any] = lambda: None

    def __enter__(self) -> None:  # type: ignore[override]
        """Begin it."""
        # Consumed once, however often it is closed.
        self.close = partial(deque, prepared(partial(self._end, self)), 0)
        try:
            return self._begin(self)
        except BaseException:
            self.close()
            raise
