"""Work that is done whole, whatever the handlers of signals raise in the middle of it.

Python runs the handlers in the main thread, between any two of its instructions: an exception such as `KeyboardInterrupt` comes between
two assignments that belong together, and once more where the first one is dealt with. It does not run them inside a call of C code. So
what changes an optimizer is done by another thread, which the main thread asks and waits for in one call of C code (`uninterrupted`), or it
is itself made of nothing but C code (`at_once`). What the handlers raise is raised before or after.
"""

from __future__ import annotations

import _thread
import atexit
import gc
import os
import threading
from _queue import SimpleQueue
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from functools import partial, wraps
from itertools import chain, starmap
from typing import Any, Generic, ParamSpec, TypeVar

from ..casting import in_ieee_mode
from .current_streams import adoption
from .forks import retire, unforked
from .native import Gate, at_once, start_thread

_P = ParamSpec("_P")
_R = TypeVar("_R")


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
    """Calls a function as `uninterrupted` does, when it is consumed and not before; it is all C code but for the function.

    Whichever thread consumes it; the streams are those that are current now.
    """
    adopt = adoption()
    if adopt is None or not _helper.is_there():
        return starmap(function, [()])
    job = _Job(function, adopt)
    by_thread = _helper.waiting[id(job)] = {threading.main_thread().ident: _helper.asked(job)}
    # Another thread runs no handlers, and may be the helper, which would wait for itself where it collects garbage.
    chosen = map(by_thread.get, starmap(_thread.get_ident, [()]), [starmap(job.run, [()])])
    forget = map(_helper.waiting.pop, [id(job)], [None])
    return chain(chain.from_iterable(chosen), forget, map(_raise, job.errors))


def _raise(error: BaseException) -> None:
    raise error


class _Job(Generic[_R]):
    """A call, as a rule made by the helper."""

    def __init__(self, call: Callable[[], _R], adopt: Callable[[], None]) -> None:
        # Emptied when it is made: the helper may hold the job a moment longer than the caller waits, and must hold nothing else.
        self._calls = [(adopt, copy_context(), call)]
        self._outcomes: list[_R] = []
        self.errors: list[BaseException] = []
        self.gate = Gate()

    def run(self) -> None:
        """Make the call."""
        collects = gc.isenabled()
        # What is collected runs destructors, and one may wait for a lock that the caller holds, who waits for this.
        gc.disable()
        try:
            self._outcomes.append(self._made(*self._calls.pop()))
        except BaseException as error:
            self.errors.append(error)
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
        if not self.errors:
            return self._outcomes.pop()
        error = self.errors.pop()
        try:
            raise error
        finally:
            # Its traceback holds this frame.
            del error


class _Helper:
    """The thread that works while the main thread waits; started at first use.

    Attributes:
        waiting: What may be asked for later: for the main thread how it asks; nothing, once there is no helper any more.
    """

    def __init__(self) -> None:
        self.waiting: dict[int, dict[int | None, Iterator[Any]]] = {}
        self._jobs: SimpleQueue[_Job[Any]] = SimpleQueue()
        self._is_there = self._has_retired = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_anew)
        # At the end of the process threads stop where they are, and whoever waits for them waits for ever.
        atexit.register(self._retire)

    def is_there(self) -> bool:
        """Whether there is a helper, or one could be started."""
        if not self._is_there and not self._has_retired:
            self._is_there = start_thread(partial(_serve, self._jobs))
        return self._is_there

    def adoption(self) -> Callable[[], None] | None:
        """What gives the helper this thread's current devices and streams; ``None`` where this thread does its work itself.

        It runs no handlers, its work cannot be another thread's, or no thread could be started.
        """
        # Handlers run in the main thread only.
        if _thread.get_ident() != threading.main_thread().ident or not self.is_there():
            return None
        return adoption()

    def asked(self, job: _Job[Any]) -> Iterator[Any]:
        """Has the job done, as it is consumed, and waits; it is all C code."""
        return chain(job.gate.closing(), map(self._jobs.put, [job]), job.gate.passing())

    def _begin_anew(self) -> None:
        # A forked child has the queue but not the thread. The one that forked is its main thread.
        self._is_there = False
        if not self.waiting:
            return
        there = self.is_there()
        for by_thread in self.waiting.values():
            asked = [by_thread.popitem()[1] for _ in range(len(by_thread))]
            if there and asked:
                by_thread[_thread.get_ident()] = asked[0]

    def _retire(self) -> None:
        self._is_there, self._has_retired = False, True
        for by_thread in list(self.waiting.values()):
            by_thread.clear()
        retire()


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
