"""What both GPU engines do through the driver itself, whatever library they reach CUDA by: contexts, memory and events."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from ...cuda.calls import (
    CAPABILITY_MAJOR,
    CAPABILITY_MINOR,
    MULTIPROCESSORS,
    OUT_OF_MEMORY,
    CudaDriver,
    DriverError,
    cuda_driver,
)
from ...cuda.contexts import Contexts, contexts
from .caches import empty_caches
from .staging import Event


class Owner:
    """Keeps something of the driver's alive, which is given back when nobody holds this."""


class DriverEvent:
    """See `gpu_adam.engines.cuda.staging.Event`."""

    def __init__(self, driver: CudaDriver, handle: int, owner: Owner) -> None:
        self._driver = driver
        self._handle = handle
        self._owner = owner

    def record(self, stream: int) -> None:
        """Mark this place in the stream."""
        self._driver.record_event(self._handle, stream)

    def synchronize(self) -> None:
        """Have the host wait until the place is reached."""
        self._driver.synchronize_event(self._handle)

    def hold(self, stream: int) -> None:
        """Have what follows in ``stream`` wait until the place is reached."""
        self._driver.hold_stream(stream, self._handle)


class DriverBinding:
    """The part of a `gpu_adam.engines.cuda.binding.Binding` that goes to the driver.

    What is allocated is given back by the driver's own functions, in the context that it is of: at once and not when a queue is full, in
    any thread, whether it has a context or not, and without invalidating anybody's capture.

    Args:
        driver: By default the machine's.
    """

    def __init__(self, driver: CudaDriver | None = None) -> None:
        self._own = None if driver is None else (driver, Contexts(driver))

    @property
    def driver(self) -> CudaDriver:
        """The driver, which there need not be until something is asked of it."""
        return cuda_driver() if self._own is None else self._own[0]

    @property
    def contexts(self) -> Contexts:
        """The devices' contexts."""
        return contexts() if self._own is None else self._own[1]

    def on(self, device: int) -> AbstractContextManager[Any]:
        """Make a device current for a while."""
        return self.contexts.on(device)

    def multiprocessors(self, device: int) -> int:
        """Multiprocessors of a device."""
        return self.driver.attribute(MULTIPROCESSORS, device)

    def capability(self, device: int) -> int:
        """Ten times the compute capability of a device."""
        major, minor = (self.driver.attribute(number, device) for number in (CAPABILITY_MAJOR, CAPABILITY_MINOR))
        return 10 * major + minor

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        """New zeroed memory on the current device: its address, and what keeps it alive."""
        # Not from a library's pool, which gives freed memory out again in the order of the stream that it was taken on, while a kernel on
        # another stream may still be using it; the driver's free waits for that.
        nbytes = max(nbytes, 1)
        with self.contexts.unseen():
            address = self._with_room(self.driver.allocate, nbytes)
            owner = self._owned(Owner(), self.driver.free, address)
            self.driver.clear(address, nbytes)
        return address, owner

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Page-locked host memory; the array keeps it alive."""
        nbytes = max(nbytes, 1)
        with self.contexts.unseen():
            address = self._with_room(self.driver.allocate_host, nbytes)
            memory = self._owned((ctypes.c_uint8 * nbytes).from_address(address), self.driver.free_host, address)
        return np.frombuffer(memory, np.uint8)

    def event(self) -> Event:
        """A new event."""
        with self.contexts.unseen():
            handle = self.driver.create_event()
        return DriverEvent(self.driver, handle, self._owned(Owner(), self.driver.destroy_event, handle))

    def _owned(self, owner: Any, give_back: Callable[[int], None], handle: int) -> Any:
        context = self.driver.current_context()
        # When the process ends it all goes by itself, and the driver may have gone before.
        finalize(owner, _give_back, self.contexts, context, give_back, handle).atexit = False
        return owner

    def _with_room(self, allocate: Callable[[int], int], nbytes: int) -> int:
        try:
            return allocate(nbytes)
        except DriverError as error:
            if error.status != OUT_OF_MEMORY:
                raise
        empty_caches()
        try:
            return allocate(nbytes)
        except DriverError as error:
            if error.status != OUT_OF_MEMORY:
                raise
            free = self.driver.free_bytes()
            raise MemoryError(
                f"{nbytes:,} bytes were asked for, and the GPU has {free:,} free, after PyTorch, CuPy and Numba have given back what "
                "they kept: free some memory, or use a smaller model"
            ) from None


def _give_back(contexts: Contexts, context: int, give_back: Callable[[int], None], handle: int) -> None:
    # Run by the garbage collector: in whichever thread, and with nobody to complain to. After an error of the device, or where the context
    # has been destroyed, there is nothing left to be given back.
    with suppress(DriverError), contexts.unseen(), contexts.within(context):
        give_back(handle)
