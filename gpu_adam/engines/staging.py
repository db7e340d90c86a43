"""Small host arrays on their way to a GPU: copied into pinned memory and sent from there, with no host synchronisation.

Coefficients and pointers go up in every step. The host may be many steps ahead of the device, so what is being sent must not be
overwritten: the pinned memory is a ring of slots, one for each step, and an event at the end of a step says when its slot is free.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SLOTS = 32
"""Steps that the host may be ahead of the device before it waits; the device's own queue of launches is of that order."""

_ALIGNMENT = 16


class Event(Protocol):
    """A CUDA event; one that was never recorded counts as reached."""

    def record(self, stream: int) -> None:
        """Mark this place in the stream."""

    def synchronize(self) -> None:
        """Have the host wait until the place is reached."""

    def hold(self, stream: int) -> None:
        """Have what follows in ``stream`` wait until the place is reached."""


class Transport(Protocol):
    """What staging asks of a CUDA binding, the right device being current."""

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Page-locked host memory; the array keeps it alive."""

    def event(self) -> Event:
        """A new event."""

    def copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        """Queue a copy from page-locked host memory to the device."""


class Staging:
    """The way up for one program's arrays.

    All that is sent goes to buffers that the program's own kernels read. On one stream these copies and kernels follow each other. When
    the stream changes from one step to the next, the new one is made to wait for the old one's last step, so that neither the buffers
    nor the state are touched by two steps at once.
    """

    def __init__(self, transport: Transport, nbytes: int) -> None:
        """A ring whose slots hold ``nbytes`` each: at least as much as the largest single array, at best all that one step sends."""
        self._transport = transport
        self._slot_bytes = _rounded(nbytes)
        self._host = transport.pinned(SLOTS * self._slot_bytes)
        self._address = self._host.ctypes.data
        self._events = [transport.event() for _ in range(SLOTS)]
        self._slot = 0
        self._used = 0
        self._stream: int | None = None

    def send(self, data: NDArray[Any], to: int, stream: int) -> None:
        """Queue a copy of ``data`` to the device's address ``to``; the array may be changed as soon as this returns."""
        self.follow(stream)
        if self._used + data.nbytes > self._slot_bytes:
            self.end_step()
        at = self._slot * self._slot_bytes + self._used
        self._host[at : at + data.nbytes].view(data.dtype).reshape(data.shape)[...] = data
        self._transport.copy(to, self._address + at, data.nbytes, stream)
        self._used += _rounded(data.nbytes)

    def follow(self, stream: int) -> None:
        """Go on in ``stream``, after all that came before in another."""
        if stream == self._stream:
            return
        if self._stream is not None:
            if self._used:
                self.end_step()
            self._events[self._slot - 1].hold(stream)
        self._stream = stream

    def end_step(self) -> None:
        """Say that a step's last kernel is queued: its slot is free when the device comes to this place."""
        # Recorded now and not when the stream changes: by then the caller may have destroyed the old stream.
        if self._stream is not None:
            self._events[self._slot].record(self._stream)
        self._slot = (self._slot + 1) % SLOTS
        self._used = 0
        self._events[self._slot].synchronize()


def _rounded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
