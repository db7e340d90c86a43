"""Forks wait for what a child could not go on from: work under locks, which no thread of the child would ever release.

A fork copies one thread only. What the others held at that moment stays locked in the child: Python's locks of modules that are being
imported, Numba's and LLVM's locks, those of this package; and what they had half changed stays half changed. So imports, compilations and
whatever else must not be copied half done happen in an `unforked` block, and a fork begins when no other thread is in one.
"""

from __future__ import annotations

# Before the hooks below are registered: those of `logging` hold its lock, which whoever imports Numba needs, and hooks that are
# registered last are called first.
import logging  # noqa: F401
import os
import sys
from collections.abc import Iterator
from contextlib import ContextDecorator, suppress
from importlib import import_module
from operator import attrgetter
from threading import RLock, get_ident
from time import monotonic, sleep
from typing import Any

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
    """What the hooks know.

    Attributes:
        inside: The threads that are in a block, once for each block.
        gate: Who enters the first block of a thread holds it for a moment; who forks holds it from before its waiting to after the fork, so
            that forks begin however busy the others are.
        held: The compiler's locks that were taken for a fork, by the thread that forks.
        torn: Whether others were at work when this process was forked.
    """

    def __init__(self) -> None:
        self.inside: list[int] = []
        self.gate = RLock()
        self.held: dict[int, list[Any]] = {}
        self.torn = False
        # The threads whose forks did not wait until all was done.
        self._unwaited: set[int] = set()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def _before(self) -> None:
        until = monotonic() + PATIENCE
        thread = get_ident()
        # Unless this comes to its end: the exceptions of handlers end it, and Python forks all the same.
        self._unwaited.add(thread)
        alone = True
        # Two threads that fork in blocks of their own would wait for each other.
        if thread not in self.inside:
            alone = self.gate.acquire(timeout=PATIENCE)
        while any(other != thread for other in self.inside):
            if monotonic() > until:
                alone = False
                break
            sleep(_POLL)
        _wait_for_imports()
        held = self.held[thread] = list[Any]()
        for lock in _locks():
            if lock.acquire(timeout=max(0.0, until - monotonic())):
                held.append(lock)
            else:
                alone = False
        if alone:
            self._unwaited.discard(thread)

    def _in_parent(self) -> None:
        self._unwaited.discard(get_ident())
        for lock in reversed(self.held.pop(get_ident(), [])):
            lock.release()
        # It is not held where the thread forks in a block, or did not come to hold it.
        with suppress(RuntimeError):
            self.gate.release()

    def _in_child(self) -> None:
        self.torn = self.torn or get_ident() in self._unwaited
        self._in_parent()
        self._unwaited.clear()
        self.held.clear()
        self.gate = RLock()
        self.inside[:] = filter(get_ident().__eq__, self.inside)


def _wait_for_imports() -> None:
    """Wait for imports of others that have begun: to import a module waits, and for nothing that waits for this thread."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _IMPORTED and getattr(getattr(module, "__spec__", None), "_initializing", False):
            # The error is the importer's.
            with suppress(Exception):
                import_module(name)


def _locks() -> Iterator[Any]:
    for module, path in _LOCKS:
        # A module that is not there, or not yet whole, or another release's, has no such lock.
        with suppress(KeyError, AttributeError):
            yield attrgetter(path)(sys.modules[module])


_forks = _Forks()
