"""Threads that share one step of the CPU engine.

Numba's own threading layers are not used: its ``workqueue`` ends the process when two threads run parallel code at once, and GNU
OpenMP does not survive a fork. These are plain Python threads that sleep on a queue and run kernels that release the GIL, so any number of
optimizers may step at once, and a forked child starts threads of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from itertools import chain, starmap
from queue import SimpleQueue
from typing import Any

from ..messages import EnvironmentVariableError, shown
from .processors import usable_processors

VARIABLE = "GPU_ADAM_NUM_THREADS"
"""The environment variable that asks for another number of threads."""

_Call = tuple[Callable[..., None], tuple[Any, ...]]
_Work = tuple[Callable[..., None], Sequence[tuple[Any, ...]]]

_MOST = max(1024, os.cpu_count() or 1)


def thread_count() -> int:
    """Threads of a step: ``GPU_ADAM_NUM_THREADS``, else the processors that this process may keep busy.

    The engine asks once a process, at its first use.

    Raises:
        EnvironmentVariableError: If the variable is not a positive whole number, or is one of more threads than can be.
    """
    asked = os.environ.get(VARIABLE)
    if asked is None:
        return usable_processors().count
    # Its length first: Python refuses to make a number of thousands of digits.
    if not (asked.isdecimal() and len(asked) < 20 and 1 <= int(asked) <= _MOST):
        raise EnvironmentVariableError(
            f"{VARIABLE}={shown(asked)}: must be a positive whole number, at most {_MOST:,}; without it, one thread a core"
        )
    return int(asked)


class _Share:
    """One call handed to a thread, and what became of it."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._done = threading.Lock()
        self._done.acquire()
        self._is_done = False
        self.error: BaseException | None = None

    def run(self) -> None:
        function, arguments = self._call
        try:
            function(*arguments)
        except BaseException as error:
            self.error = error
        self._is_done = True
        self._done.release()

    def wait(self) -> None:
        # An exception of a signal handler may come right after the lock was taken, which nobody releases again.
        while not self._is_done:
            self._done.acquire()


class ThreadPool:
    """``count - 1`` sleeping threads, which with the caller make ``count``; started at first use."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._queue: SimpleQueue[_Share] = SimpleQueue()
        self._started = 0
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        # A forked child has the queue but not the threads.
        self._queue, self._started, self._lock = SimpleQueue(), 0, threading.Lock()

    def _serve(self) -> None:
        queue = self._queue
        while True:
            queue.get().run()

    def _start(self) -> None:
        with self._lock:
            while self._started < self.count - 1:
                threading.Thread(target=self._serve, name="gpu_adam", daemon=True).start()
                self._started += 1

    def run(self, function: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> None:
        """Call ``function`` with each of ``arguments``, the first in this thread; return when all are done."""
        self.run_all([(function, arguments)])

    def run_all(self, work: Sequence[_Work]) -> None:
        """Do all work, the first call of each piece in this thread; return when all is done.

        What a signal handler raises meanwhile is raised then. The pieces may not depend on one another.

        Args:
            work: Functions, each with the arguments of one call or more.
        """
        shares = [_Share((function, each)) for function, arguments in work for each in arguments[1:]]
        if shares and self._started < self.count - 1:
            self._start()
        own = [starmap(function, arguments[:1]) for function, arguments in work]
        begun: list[None] = []
        try:
            # In C from the first to the last, so that no signal handler comes in between: all work is begun, or none.
            begun.extend(chain(map(self._queue.put, shares), *own))
            for share in shares:
                share.wait()
        except BaseException:
            # An interrupt is kept for later: nobody may still write when the caller goes on.
            _wait_for(shares[: len(begun)])
            raise
        for share in shares:
            if share.error is not None:
                raise share.error


def _wait_for(shares: Sequence[_Share]) -> None:
    """Wait for all, whatever signal handlers raise meanwhile."""
    while True:
        try:
            for share in shares:
                share.wait()
            return
        except BaseException:
            continue
