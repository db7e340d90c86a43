"""Threads that share one step of the CPU engine.

Numba's own threading layers are not used: its ``workqueue`` ends the process when two threads run parallel code at once, and GNU
OpenMP does not survive a fork. These are plain Python threads that sleep on a queue and run kernels that release the GIL, so any number of
optimizers may step at once, and a forked child starts threads of its own.
"""

from __future__ import annotations

import os
import sys
import threading
from _queue import SimpleQueue
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, starmap
from typing import Any

from ..errors import EnvironmentVariableError
from ..messages import shown
from ..process.native import Gate, at_once, start_thread
from ..process.uninterrupted import uninterrupted
from . import Stage
from .processors import usable_processors

VARIABLE = "GPU_ADAM_NUM_THREADS"
"""The environment variable that asks for another number of threads."""

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


class ThreadPool:
    """``count - 1`` threads at most, which with the caller make ``count``; started when there is work for them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._shares: SimpleQueue[_Share] = SimpleQueue()
        self._started = 0
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        # A forked child has the queue but not the threads.
        self._shares, self._started, self._lock = SimpleQueue(), 0, threading.Lock()

    def _have(self, threads: int) -> bool:
        """Start threads up to a number; whether there is any."""
        # At the end of the process they are there and do nothing any more.
        if threads == 0 or sys.is_finalizing():
            return False
        if self._started < threads:
            uninterrupted(self._start, threads)
        return self._started > 0

    def _start(self, threads: int) -> None:
        with self._lock:
            while self._started < threads and start_thread(partial(_serve, self._shares)):
                self._started += 1

    def run(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> None:
        """Call ``function`` with each of ``arguments``, the first in this thread; return when all are done."""
        self.run_all([(function, arguments)])

    def run_all(self, *stages: Stage) -> None:
        """Do some work, one stage after the other; return when nobody works any more.

        Where the functions are C code, and the threads' too, all is done or nothing, whatever signal handlers raise meanwhile. Where no
        thread can be started, the caller does it all.

        Args:
            stages: The first call of each function is made in this thread. After an error no further stage begins.
        """
        calls = list(chain.from_iterable(stages))
        shares = sum([len(arguments) for _, arguments in calls]) - len(calls)
        if not self._have(min(shares, self.count - 1)):
            at_once(*[starmap(function, arguments) for function, arguments in calls])
            return
        errors: list[BaseException] = []
        begun: list[Gate] = []
        parts: list[_Part] = []
        for stage in reversed(stages):
            parts.insert(0, _Part(stage, tuple(parts), begun, errors))
        try:
            at_once(*(part.work(self._shares) for part in parts))
        except BaseException:
            # A function has raised it, in this thread.
            at_once(*(gate.passing() for gate in begun))
            raise
        if errors:
            raise errors[0]


class _Part:
    """A stage at work: the calls that its caller makes, and the shares of others.

    All that is still to begin stands in lists, which are cleared where an earlier stage fails.
    """

    def __init__(self, stage: Stage, later: Sequence[_Part], begun: list[Gate], errors: list[BaseException]) -> None:
        """Nothing begins yet.

        Args:
            stage: The calls.
            later: The stages that come after it.
            begun: Has, while others work, what opens when they are done.
            errors: Where errors are put.
        """
        self._own = [(function, list(arguments[:1])) for function, arguments in stage]
        calls = [(function, each) for function, arguments in stage for each in arguments[1:]]
        gates = [Gate()] if calls else []
        # The last one that is done comes to 0.
        left = iter(range(len(calls))[::-1])
        self._shares = [_Share(call, gate, left, later, errors) for gate in gates for call in calls]
        self._begin = [chain(gate.closing(), map(begun.append, [gate])) for gate in gates]
        self._end = [chain(gate.passing(), map(begun.remove, [gate])) for gate in gates]

    def work(self, queue: SimpleQueue[_Share]) -> Iterator[Any]:
        """Does it as it is consumed: hands out the shares in the queue, makes the caller's calls, and waits."""
        own = (starmap(function, arguments) for function, arguments in self._own)
        begin, end = chain.from_iterable(self._begin), chain.from_iterable(self._end)
        return chain(begin, map(queue.put, self._shares), *own, end)

    def call_off(self) -> None:
        """Have nothing of it begin."""
        own = (arguments for _, arguments in self._own)
        calls: tuple[list[Any], ...] = (self._begin, self._shares, *own, self._end)
        for some in calls:
            some.clear()


class _Share:
    """One call for another thread."""

    def __init__(
        self,
        call: tuple[Callable[..., Any], tuple[Any, ...]],
        gate: Gate,
        left: Iterator[int],
        later: Sequence[_Part],
        errors: list[BaseException],
    ) -> None:
        self._call = call
        self._gate = gate
        self._left = left
        self._later = later
        self._errors = errors

    def run(self) -> None:
        function, arguments = self._call
        try:
            function(*arguments)
        except BaseException as error:
            self._errors.append(error)
            for part in self._later:
                part.call_off()
        if next(self._left) == 0:
            self._gate.open()


def _serve(shares: SimpleQueue[_Share]) -> None:
    while True:
        shares.get().run()
