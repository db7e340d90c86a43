"""Work that is done whole, whatever the handlers of signals raise in the middle of it.

Python runs the handlers in the main thread, between any two of its instructions: an exception such as `KeyboardInterrupt` comes between
two assignments that belong together, and once more where the first one is dealt with. It does not run them inside a call of C code. So
what changes an optimizer is done by another thread, which the main thread asks and waits for in one call of C code (`uninterrupted`), or it
is itself made of nothing but C code (`at_once`). What the handlers raise is raised before or after.
"""

from __future__ import annotations

import _thread
import atexit
import ctypes
import gc
import os
import sys
import threading
from _queue import SimpleQueue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from functools import partial, wraps
from itertools import chain, starmap
from types import BuiltinFunctionType
from typing import Any, Generic, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from .casting import in_ieee_mode
from .current_streams import adoption
from .forks import unforked

_P = ParamSpec("_P")
_R = TypeVar("_R")

_STACK = 8 << 20
"""Bytes of a thread's stack: compilers need more of it than some systems give."""

# Called in this way, unlike through ctypes.pythonapi, these functions run without the GIL; and unlike the locks of `threading`, their locks
# run no handlers while somebody waits.
_python = ctypes.CDLL(ctypes.pythonapi._name, handle=ctypes.pythonapi._handle)
_allocate = _python.PyThread_allocate_lock
_acquire, _release = _python.PyThread_acquire_lock, _python.PyThread_release_lock
_allocate.restype = ctypes.c_void_p
_acquire.argtypes = (ctypes.c_void_p, ctypes.c_int)
_release.argtypes = (ctypes.c_void_p,)

_spare: deque[int] = deque()
"""Locks that nobody uses. None is given back: a destructor would run handlers, and lose what they raise."""


class Gate:
    """What one thread waits at until another one opens it; to be used once."""

    def __init__(self) -> None:
        try:
            self._lock = _spare.pop() if _spare else _allocate()
        except IndexError:  # another thread came in between
            self._lock = _allocate()

    def closing(self) -> Iterator[Any]:
        """Closes it, as it is consumed; it is all C code."""
        return starmap(_acquire, [(self._lock, 1)])

    def open(self) -> None:
        """Let the other thread through."""
        _release(self._lock)

    def passing(self) -> Iterator[Any]:
        """Waits, as it is consumed, until it is open; it is all C code."""
        return chain(
            starmap(_acquire, [(self._lock, 1)]), starmap(_release, [(self._lock,)]), map(_spare.append, [self._lock])
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


def uninterrupted(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Call a function where no handlers run and in whose middle nobody forks, with the caller's context and streams; what it returns.

    If an exception is raised that is not the function's own, the function has not begun, or it has come to its end.

    Raises:
        BaseException: What the function raises, or what a handler has raised meanwhile.
    """
    adopt = _helper.adoption()
    if adopt is None:
        with unforked():
            return function(*args, **kwargs)
    job = _Job(partial(function, *args, **kwargs), adopt)
    at_once(_helper.asked(job))
    return job.result()


def uninterruptedly(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, called by `uninterrupted`."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return uninterrupted(function, *args, **kwargs)

    return call


def prepared(function: Callable[[], Any]) -> Iterator[Any]:
    """Calls a function as `uninterrupted` does, when it is consumed and not before; until it is called it is all C code.

    Whichever thread consumes it; the streams are those that are current now.
    """
    adopt = _helper.adoption()
    if adopt is None:
        return starmap(function, [()])
    job = _Job(function, adopt)
    by_thread = _ByThread({_thread.get_ident(): _helper.asked(job)})
    _helper.waiting[id(by_thread)] = by_thread
    # Another thread, to which a garbage collection may have come, does it itself: the helper would wait for itself.
    chosen = map(by_thread.get, starmap(_thread.get_ident, [()]), [starmap(job.run, [()])])
    return chain(chain.from_iterable(chosen), starmap(job.result, [()]))


class _ByThread(dict[int, Iterator[Any]]):
    """In which thread a job is the helper's, and how it is asked; it can be referred to weakly."""


class _Job(Generic[_R]):
    """A call, as a rule made by the helper."""

    def __init__(self, call: Callable[[], _R], adopt: Callable[[], None]) -> None:
        # Emptied when it is made: the helper may hold the job a moment longer than the caller waits, and must hold nothing else.
        self._calls = [(adopt, copy_context(), call)]
        self._outcomes: list[_R] = []
        self._errors: list[BaseException] = []
        self.gate = Gate()

    def run(self) -> None:
        """Make the call."""
        collects = gc.isenabled()
        # What is collected runs destructors, and one may wait for a lock that the caller holds, who waits for this.
        gc.disable()
        try:
            self._outcomes.append(self._made(*self._calls.pop()))
        except BaseException as error:
            self._errors.append(error)
        finally:
            if collects:
                gc.enable()

    @staticmethod
    @in_ieee_mode
    def _made(adopt: Callable[[], None], context: Context, call: Callable[[], _R]) -> _R:
        adopt()
        with unforked():
            return context.run(call)

    def result(self) -> _R:
        if not self._errors:
            return self._outcomes.pop()
        error = self._errors.pop()
        try:
            raise error
        finally:
            # Its traceback holds this frame.
            del error


class _Helper:
    """The thread that works while the main thread waits; started at first use.

    Attributes:
        waiting: What may be asked for later; emptied, so that no thread asks the helper, once there is none any more.
    """

    def __init__(self) -> None:
        self.waiting: WeakValueDictionary[int, _ByThread] = WeakValueDictionary()
        self._jobs: SimpleQueue[_Job[Any]] = SimpleQueue()
        self._is_there = self._has_retired = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)
        # At the end of the process threads stop where they are, and whoever waits for them waits for ever.
        atexit.register(self._retire)

    def adoption(self) -> Callable[[], None] | None:
        """What gives the helper this thread's current devices and streams; ``None`` where this thread does its work itself.

        It runs no handlers, its work cannot be another thread's, or no thread could be started.
        """
        # Handlers run in the main thread only.
        if self._has_retired or _thread.get_ident() != threading.main_thread().ident:
            return None
        if not self._is_there:
            self._is_there = start_thread(partial(_serve, self._jobs))
        return adoption() if self._is_there else None

    def asked(self, job: _Job[Any]) -> Iterator[Any]:
        """Has the job done, as it is consumed, and waits; it is all C code."""
        return chain(job.gate.closing(), map(self._jobs.put, [job]), job.gate.passing())

    def _forget(self) -> None:
        # A forked child has the queue but not the thread.
        self._jobs, self._is_there = SimpleQueue(), False
        self._leave_alone()

    def _retire(self) -> None:
        self._has_retired = True
        self._leave_alone()

    def _leave_alone(self) -> None:
        for by_thread in list(self.waiting.values()):
            by_thread.clear()


def _serve(jobs: SimpleQueue[_Job[Any]]) -> None:
    while True:
        _work(jobs.get())


def _work(job: _Job[Any]) -> None:
    # In a function of its own: the thread holds no job while it waits for the next one.
    try:
        job.run()
    finally:
        job.gate.open()


_helper = _Helper()
