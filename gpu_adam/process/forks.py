"""Forks wait for what a child could not go on from: work under locks, which no thread of the child would ever release.

A fork copies one thread only. What the others held at that moment stays locked in the child: Python's locks of modules that are being
imported, Numba's and LLVM's locks, those of this package; and what they had half changed stays half changed. So imports, compilations and
whatever else must not be copied half done happen in an `unforked` block, and a fork begins when no other thread is in one.

What is done around a fork is done by a thread of its own, the guard, which the forking thread asks and tells in calls of C code: Python
loses the exceptions that the handlers of signals raise in a fork's hooks, and what they would leave half done would stay so.
"""

from __future__ import annotations

import _thread

# Before the hooks below are registered: those of `logging` hold its lock, which whoever imports Numba needs, and hooks that are
# registered last are called first.
import logging  # noqa: F401
import os
import sys
from _queue import SimpleQueue
from collections.abc import Iterator
from contextlib import ContextDecorator, suppress
from functools import partial
from importlib import _bootstrap
from itertools import repeat, starmap
from operator import attrgetter
from threading import RLock, get_ident
from time import monotonic, sleep
from typing import Any

from .native import acquire, allocate, release, start_thread

PATIENCE = 60.0
"""Seconds that a fork waits for; compilations take less. It is bounded, for what it waits for may itself wait for the thread that forks."""

_POLL = 0.001
"""Seconds between two looks."""

_IMPORTED = ("gpu_adam", "llvmlite", "ml_dtypes", "numba", "numpy")
"""Packages that a child's first step imports."""

_LOCKS = (("numba.core.compiler_lock", "global_compiler_lock._lock"), ("llvmlite.binding.ffi", "lib._lock._lock"))
"""Locks of the compiler's, which others who use Numba hold too, in the order in which it takes them."""


class unforked(ContextDecorator):  # noqa: N801, it is called as a function is
    """A block, or a function, in whose middle no other thread forks.

    Any number of threads may be in one at the same time, and they may lie within each other. Nobody may wait in one for another thread that
    is about to enter its own.

    Raises:
        RuntimeError: In a process that was forked all the same, after `PATIENCE` seconds, while another thread was in such a block.
    """

    def __enter__(self) -> None:
        """Wait while a fork is in progress."""
        if _forks.torn:
            raise RuntimeError(
                f"this process was forked while another thread compiled or imported for more than {PATIENCE:g} seconds, and has its "
                "locks but not the thread: start processes with multiprocessing's spawn or forkserver, or make a first step before the fork"
            )
        thread = get_ident()
        before = _forks.inside.count(thread)
        try:
            if before:
                # A fork that waits for this thread must not be waited for.
                _forks.inside.append(thread)
            else:
                with _forks.gate:
                    _forks.inside.append(thread)
        except BaseException:
            if _forks.inside.count(thread) > before:
                _forks.inside.remove(thread)
            raise

    def __exit__(self, *_: object) -> None:
        """Let forks begin."""
        _forks.inside.remove(get_ident())


class _Forks:
    """What the guard and the hooks know.

    Attributes:
        inside: The threads that are in a block, once for each block.
        gate: Who enters the first block of a thread holds it for a moment; the guard holds it from before its waiting to after the fork, so
            that forks begin however busy the others are.
        torn: Whether others were at work when this process was forked.
    """

    def __init__(self) -> None:
        self.inside: list[int] = []
        self.gate = RLock()
        self.torn = False
        # Whether the last fork did not wait until all was done.
        self._is_unwaited = False
        self._held: list[Any] = []
        self._threads: SimpleQueue[int] = SimpleQueue()
        # Held by the thread whose turn it is to fork; closed until the guard is ready; closed until the fork is over.
        self._turn, self._ready, self._over = allocate(), allocate(), allocate()
        acquire(self._over, 1)
        # Emptied where there is no guard: then nothing is asked of it.
        self._guards: list[None] = []

    def watch(self) -> None:
        """Have forks wait from now on, where there are any and a guard can be started."""
        if not hasattr(os, "register_at_fork") or not start_thread(self._guard):
            return
        self._guards.append(None)
        there = iter(self._guards.__len__, 0)
        ask = map(self._threads.put, starmap(_thread.get_ident, repeat(())))
        close, wait = (starmap(acquire, repeat((self._ready, 1))) for _ in range(2))
        turn, reopen = starmap(acquire, repeat((self._turn, 1))), starmap(release, repeat((self._ready,)))
        tell, leave = starmap(release, repeat((self._over,))), starmap(release, repeat((self._turn,)))
        # Each time the next of all of these, in this order, in one call of C code.
        before = zip(there, turn, close, ask, wait, reopen, strict=False)
        after = zip(iter(self._guards.__len__, 0), tell, leave, strict=False)
        os.register_at_fork(
            before=partial(next, before, None),
            after_in_parent=partial(next, after, None),
            after_in_child=self._in_child,
        )

    def retire(self) -> None:
        """Ask nothing of the guard any more, which ends with the process."""
        self._guards.clear()

    def _guard(self) -> None:
        while True:
            thread = self._threads.get()
            try:
                self._prepare(thread)
            finally:
                release(self._ready)
            acquire(self._over, 1)
            self._release()

    def _prepare(self, thread: int) -> None:
        """Wait until the thread can fork."""
        until = monotonic() + PATIENCE
        own = thread in self.inside
        alone = self.gate.acquire(timeout=PATIENCE)
        if alone:
            self._held.append(self.gate)
        while any(other != thread for other in self.inside) or _is_importing(thread):
            if monotonic() > until:
                alone = False
                break
            sleep(_POLL)
        # A thread that forks in a block of its own may hold them.
        for lock in () if own else _locks():
            if lock.acquire(timeout=max(0.0, until - monotonic())):
                self._held.append(lock)
            else:
                alone = False
        self._is_unwaited = not alone

    def _release(self) -> None:
        while self._held:
            self._held.pop().release()

    def _in_child(self) -> None:
        if not self._guards:
            return
        self.torn = self.torn or self._is_unwaited
        # The guard, who held them, is the parent's.
        for lock in self._held:
            lock._at_fork_reinit()
        self._held.clear()
        self.inside[:] = filter(get_ident().__eq__, self.inside)
        release(self._turn)
        if not start_thread(self._guard):
            self._guards.clear()


def _is_importing(thread: int) -> bool:
    """Whether another thread imports what a child would."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _IMPORTED and getattr(getattr(module, "__spec__", None), "_initializing", False):
            reference = _bootstrap._module_locks.get(name)  # type: ignore[attr-defined]
            lock = None if reference is None else reference()
            if getattr(lock, "owner", None) not in (None, thread):
                return True
    return False


def _locks() -> Iterator[Any]:
    for module, path in _LOCKS:
        # A module that is not there, or not yet whole, or another release's, has no such lock.
        with suppress(KeyError, AttributeError):
            yield attrgetter(path)(sys.modules[module])


_forks = _Forks()
_forks.watch()
retire = _forks.retire
