"""Signals whose handlers raise, for the length of a block."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")


class Stopped(Exception):
    """What a time limit raises."""


@contextmanager
def alarmed(handler: Callable[..., object]) -> Iterator[None]:
    """A block in which timers call a handler; after it none is left."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
