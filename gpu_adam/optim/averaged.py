"""The block in which the parameters are their averages."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable
from contextlib import ContextDecorator
from functools import partial
from typing import Any

from ..process.uninterrupted import prepared


class Averaged(ContextDecorator, io.IOBase):
    """A block that ends whatever the handlers of signals raise: the parameters are then what they were.

    An exception may come right where a block ends, before the first line of an ``__exit__`` that is written in Python. `io.IOBase` has one
    that is C code and calls ``close``, and so has its destructor; here ``close`` is C code too, until it has handed over the work.
    """

    def __init__(self, begin: Callable[[object], None], end: Callable[[object], None]) -> None:
        """Nothing is begun yet.

        Args:
            begin: Makes the parameters their averages; it is given what stands for the block.
            end: Makes them what they were; nothing, if another block has changed them, or none.
        """
        self._begin = begin
        self._end = end
        self.close: Callable[[], Any] = int  # which does nothing
        self._is_entered = False

    def _recreate_cm(self) -> Averaged:
        # For each call of a function that it decorates.
        return Averaged(self._begin, self._end)

    def __enter__(self) -> None:  # type: ignore[override]
        """Begin it.

        Raises:
            RuntimeError: The second time.
        """
        if self._is_entered:
            raise RuntimeError("a block of averages is entered once: call averaged() again")
        self._is_entered = True
        # Not itself, which would then live until the next garbage collection.
        block = object()
        # Consumed once, however often it is closed. What closing returns is false, and so keeps no exception from the caller.
        self.close = partial(deque, prepared(partial(self._end, block)), 0)
        try:
            return self._begin(block)
        except BaseException:
            self.close()
            raise
