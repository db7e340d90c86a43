"""What is made of C code alone, so that no handler of a signal runs in its middle: locks, gates, and calls in one go."""

from __future__ import annotations

import _thread
import ctypes
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, starmap
from types import BuiltinFunctionType
from typing import Any

_STACK = 8 << 20
"""Bytes of a thread's stack: compilers need more of it than some systems give."""

# Called in this way, unlike through ctypes.pythonapi, these functions run without the GIL; and unlike the locks of `threading`, their locks
# run no handlers while somebody waits.
_python = ctypes.CDLL(ctypes.pythonapi._name, handle=ctypes.pythonapi._handle)
allocate = _python.PyThread_allocate_lock
acquire, release = _python.PyThread_acquire_lock, _python.PyThread_release_lock
allocate.restype = ctypes.c_void_p
acquire.argtypes = (ctypes.c_void_p, ctypes.c_int)
release.argtypes = (ctypes.c_void_p,)

_spare: deque[int] = deque()
"""Locks that nobody uses. None is given back: a destructor would run handlers, and lose what they raise."""


class Gate:
    """What one thread waits at until another one opens it; to be used once."""

    def __init__(self) -> None:
        try:
            self._lock = _spare.pop() if _spare else allocate()
        except IndexError:  # another thread came in between
            self._lock = allocate()

    def closing(self) -> Iterator[Any]:
        """Closes it, as it is consumed; it is all C code."""
        return starmap(acquire, [(self._lock, 1)])

    def open(self) -> None:
        """Let the other thread through."""
        release(self._lock)

    def passing(self) -> Iterator[Any]:
        """Waits, as it is consumed, until it is open; it is all C code."""
        return chain(
            starmap(acquire, [(self._lock, 1)]), starmap(release, [(self._lock,)]), map(_spare.append, [self._lock])
        )


def at_once(*work: Iterable[Any]) -> None:
    """Consume iterators, one after the other, in one call of C code: where they are made of C code, no handler runs in between."""
    deque(chain.from_iterable(work), maxlen=0)


def start_thread(serve: Callable[[], None]) -> bool:
    """Start a thread that ends with the process; whether it could be.

    It cannot where the system allows no more threads, when the process is about to end, and where gevent or eventlet have put something
    else in the place of threads.
    """
    if sys.is_finalizing() or not isinstance(_thread.start_new_thread, BuiltinFunctionType):
        return False
    before: int | None = None
    try:
        before = _thread.stack_size(_STACK)
        _thread.start_new_thread(serve, ())
    except (RuntimeError, ValueError):
        return False
    finally:
        if before is not None:
            _thread.stack_size(before)
    return True
