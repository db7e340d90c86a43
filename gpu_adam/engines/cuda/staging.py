"""Small host arrays on their way to a GPU: copied into pinned memory and sent from there, with no host synchronisation.

Coefficients and pointers go up in every step. The host may be many steps ahead of the device, so what is being sent must not be
overwritten: the pinned memory is a ring of entries, one for each step, and an event at the end of a step says when its entry is free.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import capture_errors

RING = 32
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
        """Queue a copy between any device's memory and page-locked host memory, in any direction."""


class Staging:
    """The way up for one program's arrays.

    All that is sent goes to buffers that the program's own kernels read. On one stream these copies and kernels follow each other. When
    the stream changes from one step to the next, the new one is made to wait for the old one's last step, so that neither the buffers
    nor the state are touched by two steps at once.

    Attributes:
        turn: Entries that were used up so far. What was queued in turn ``k`` is done when turn ``k + RING`` has begun.
    """

    def __init__(self, transport: Transport, nbytes: int) -> None:
        """A ring whose entries hold ``nbytes`` each: at least as much as the largest single array, at best all that one step sends."""
        self._transport = transport
        self._entry_bytes = rounded(nbytes)
        self._host = transport.pinned(RING * self._entry_bytes)
        self._address = self._host.ctypes.data
        self._events = [transport.event() for _ in range(RING)]
        self.turn = 0
        self._used = 0
        self._stream: int | None = None
        self._is_open = False

    def send(self, data: NDArray[Any], to: int, stream: int) -> None:
        """Queue a copy of ``data`` to the device's address ``to``; the array may be changed as soon as this returns."""
        self.follow(stream)
        if self._used + data.nbytes > self._entry_bytes:
            self.end_step()
            self._is_open = True
        at = self.turn % RING * self._entry_bytes + self._used
        put(data, self._host, at)
        self._transport.copy(to, self._address + at, data.nbytes, stream)
        self._used += rounded(data.nbytes)

    def follow(self, stream: int) -> None:
        """Go on in ``stream``, after all that came before in another."""
        if stream != self._stream:
            if self._is_open:
                self.end_step()
            if self._stream is not None:
                self._events[(self.turn - 1) % RING].hold(stream)
            self._stream = stream
        self._is_open = True

    def is_elsewhere(self, stream: int) -> bool:
        """Whether the last step ran in another stream."""
        return stream != self._stream

    def prolong_step(self) -> None:
        """Say that what is queued in the stream by now belongs to the step that was ended last."""
        if self.turn and not self._is_open and self._stream is not None:
            self._events[(self.turn - 1) % RING].record(self._stream)

    def end_step(self) -> None:
        """Say that a step's last kernel is queued: its entry is free when the device comes to this place."""
        # Recorded now and not when the stream changes: by then the caller may have destroyed the old stream.
        if self._stream is not None:
            self._events[self.turn % RING].record(self._stream)
        self.turn += 1
        self._used = 0
        self._is_open = False
        self._events[self.turn % RING].synchronize()


class Imprints:
    """Host arrays that graphs copy to the device, again at every replay: each lies in pinned memory that is never written again.

    Pinned memory cannot be had while a stream is being captured, so there is some in reserve.
    """

    def __init__(self, transport: Transport, nbytes: int) -> None:
        """A reserve of ``nbytes``."""
        self._transport = transport
        self._nbytes = nbytes
        self._used = 0
        self._host = transport.pinned(nbytes)
        self._full: list[NDArray[np.uint8]] = []
        self._last: dict[int, tuple[NDArray[Any], int]] = {}

    def send(self, data: NDArray[Any], to: int, stream: int) -> None:
        """Have the graph that the stream is being captured in copy ``data``, as it is now, to the device's address ``to``.

        Raises:
            RuntimeError: If the reserve is used up.
        """
        same = self._last.get(to)
        if same is None or not np.array_equal(same[0], data):
            if self._used + data.nbytes > len(self._host):
                raise capture_errors.addresses_used_up()
            put(data, self._host, self._used)
            same = self._last[to] = (data.copy(), self._host.ctypes.data + self._used)
            self._used += rounded(data.nbytes)
        self._transport.copy(to, same[1], data.nbytes, stream)

    def refill(self) -> None:
        """Have a full reserve again; not while a stream is being captured."""
        if self._used:
            self._full.append(self._host)
            self._host = self._transport.pinned(self._nbytes)
            self._used = 0


def put(data: NDArray[Any], memory: NDArray[np.uint8], at: int) -> None:
    """Write an array's elements to ``at`` bytes into a byte array."""
    memory[at : at + data.nbytes].view(data.dtype).reshape(data.shape)[...] = data


def rounded(nbytes: int) -> int:
    """The bytes that an array takes up with the gap behind it, so that the next one is aligned."""
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
