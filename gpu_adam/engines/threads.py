"""Threads that share one step of the CPU engine.

Numba's own threading layers are not used: its ``workqueue`` ends the process when two threads run parallel code at once, and GNU
OpenMP does not survive a fork. These are plain Python threads that sleep on a queue and run kernels that release the GIL, so any number of
optimizers may step at once, and a forked child starts threads of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from ..messages import EnvironmentVariableError, shown

_Call = tuple[Callable[..., None], tuple[Any, ...]]

_MOST = max(1024, os.cpu_count() or 1)


def thread_count() -> int:
    """Threads of a step: ``GPU_ADAM_NUM_THREADS``, else the processors that this process may use.

    Raises:
        EnvironmentVariableError: If the variable is not a positive whole number, or is one of more threads than can be.
    """
    asked = os.environ.get("GPU_ADAM_NUM_THREADS")
    if asked is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Its length first: Python refuses to make a number of thousands of digits.
    if not (asked.isdecimal() and len(asked) < 20 and 1 <= int(asked) <= _MOST):
        raise EnvironmentVariableError(
            f"GPU_ADAM_NUM_THREADS={shown(asked)}: must be a positive whole number, at most {_MOST:,}; without it, one thread a core"
        )
    return int(asked)


class _Share:
    """One call handed to a thread, and what became of it."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._done = threading.Semaphore(0)
        self._error: BaseException | None = None

    def run(self) -> None:
        function, arguments = self._call
        try:
            function(*arguments)
        except BaseException as error:
            self._error = error
        self._done.release()

    def wait(self) -> BaseException | None:
        # An interrupt is kept for later: nobody may still write when the caller goes on.
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                self._done.acquire()
                return interrupt or self._error
            except KeyboardInterrupt as error:
                interrupt = error


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
        if self._started < self.count - 1:
            self._start()
        shares: list[_Share] = []
        try:
            for each in arguments[1:]:
                shares.append(_Share((function, each)))
                self._queue.put(shares[-1])
            function(*arguments[0])
        finally:
            errors = [share.wait() for share in shares]
        for error in errors:
            if error is not None:
                raise error
