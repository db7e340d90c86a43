"""Whose context is current: every piece of work on a GPU is done in that GPU's primary context, and the caller's is current again after it.

The array libraries' own ways restore a device and no context. Somebody who works on GPU 1 only, whose thread has no context yet, then gets
one on GPU 0, which takes half a gigabyte; and a context that was made with the driver's functions is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from threading import Lock
from typing import Any

from ..process.uninterrupted import uninterruptedly
from .calls import RELAXED, CudaDriver, cuda_driver


class Contexts:
    """The primary contexts of the devices that were worked on; they stay as long as the process."""

    _NOTHING: AbstractContextManager[Any] = nullcontext()

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self._primary: dict[int, int] = {}
        self._lock = Lock()

    @uninterruptedly
    def primary(self, device: int) -> int:
        """The primary context of a device."""
        with self._lock:
            if device not in self._primary:
                self._primary[device] = self._driver.primary_context(device)
            return self._primary[device]

    def on(self, device: int) -> AbstractContextManager[Any]:
        """Make a device current for a while."""
        return self.within(self._primary.get(device) or self.primary(device))

    def within(self, context: int) -> AbstractContextManager[Any]:
        """Make a context current for a while."""
        # Mostly it is so already.
        before = self._driver.current_context()
        return self._NOTHING if before == context else self._switched(before, context)

    @contextmanager
    def _switched(self, before: int, context: int) -> Iterator[None]:
        self._driver.set_context(context)
        try:
            yield
        finally:
            self._driver.set_context(before)

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """A block whose allocations and frees invalidate no capture that is in progress, of this thread or another."""
        before = self._driver.exchange_capture_mode(RELAXED)
        try:
            yield
        finally:
            self._driver.exchange_capture_mode(before)


@cache
def contexts() -> Contexts:
    """The machine's, the same object each time."""
    return Contexts(cuda_driver())


def on_device(device: int) -> AbstractContextManager[Any]:
    """Make a GPU current for a while, for a library that works on the current one."""
    return contexts().on(device)
