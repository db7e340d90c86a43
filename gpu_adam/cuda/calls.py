"""The few functions of NVIDIA's driver that the GPU engines call themselves, without a package in between: contexts, memory, events.

They do what the array libraries' own calls do not: nothing here makes a context that is not asked for, and memory is given back at once.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from . import driver

OUT_OF_MEMORY = 2
"""``CUDA_ERROR_OUT_OF_MEMORY``."""

RELAXED = 2
"""``CU_STREAM_CAPTURE_MODE_RELAXED``: what the calling thread does invalidates nobody's capture."""

MULTIPROCESSORS, CAPABILITY_MAJOR, CAPABILITY_MINOR = 16, 75, 76
"""Attributes of a device, as ``CU_DEVICE_ATTRIBUTE_*`` numbers them."""

_DEVICE_ORDINAL = 9
"""Of a pointer, the device that it is on."""

_NON_BLOCKING = 1
"""Of a stream, that it does not wait for the default one."""

_DISABLE_TIMING = 2
_PORTABLE = 1
"""Of page-locked memory, that it is so for every context."""

_pointer, _handle, _size, _int, _uint = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (_uint,),
    "cuGetErrorName": (_int, _pointer),
    "cuDeviceGet": (_pointer, _int),
    "cuDeviceGetAttribute": (_pointer, _int, _int),
    "cuDevicePrimaryCtxRetain": (_pointer, _int),
    "cuCtxGetCurrent": (_pointer,),
    "cuCtxSetCurrent": (_pointer,),
    "cuCtxGetDevice": (_pointer,),
    "cuPointerGetAttribute": (_pointer, _int, _handle),
    "cuThreadExchangeStreamCaptureMode": (_pointer,),
    "cuMemGetInfo_v2": (_pointer, _pointer),
    "cuMemAlloc_v2": (_pointer, _size),
    "cuMemFree_v2": (_handle,),
    "cuMemHostAlloc": (_pointer, _size, _uint),
    "cuMemFreeHost": (_pointer,),
    "cuMemsetD8Async": (_handle, ctypes.c_ubyte, _size, _pointer),
    "cuStreamCreate": (_pointer, _uint),
    "cuStreamDestroy_v2": (_pointer,),
    "cuStreamSynchronize": (_pointer,),
    "cuStreamWaitEvent": (_pointer, _pointer, _uint),
    "cuEventCreate": (_pointer, _uint),
    "cuEventDestroy_v2": (_pointer,),
    "cuEventRecord": (_pointer, _pointer),
    "cuEventSynchronize": (_pointer,),
}
"""Their arguments. All but ``cuMemHostAlloc`` and the likes have a second version by that name, which is the one that headers mean."""


class DriverError(RuntimeError):
    """A function of the driver failed.

    Attributes:
        status: The number that it returned.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class CudaDriver:
    """The functions, every call checked.

    Args:
        library: The driver's library; every function works in the context that is current, unless it says otherwise.
    """

    def __init__(self, library: Any) -> None:
        self._functions = {}
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, ctypes.c_int
            self._functions[name] = function
        self._get_current = self._functions["cuCtxGetCurrent"]
        self._call("cuInit", 0)

    def _call(self, name: str, *arguments: Any) -> None:
        status = self._functions[name](*arguments)
        if status:
            text = ctypes.c_char_p()
            self._functions["cuGetErrorName"](status, ctypes.byref(text))
            said = text.value.decode() if text.value else f"error {status}"
            raise DriverError(f"{name} failed: {said}", status)

    def _made(self, name: str, *arguments: Any) -> int:
        """What a function hands out by its first argument."""
        value = ctypes.c_void_p()
        self._call(name, ctypes.byref(value), *arguments)
        return value.value or 0

    def _number(self, name: str, *arguments: Any) -> int:
        value = ctypes.c_int()
        self._call(name, ctypes.byref(value), *arguments)
        return value.value

    # Contexts; a context is its handle, 0 for none.

    def current_context(self) -> int:
        """The calling thread's."""
        value = ctypes.c_void_p()
        if self._get_current(ctypes.byref(value)):
            self._call("cuCtxGetCurrent", ctypes.byref(value))
        return value.value or 0

    def set_context(self, context: int) -> None:
        """Make a context the calling thread's, or none."""
        self._call("cuCtxSetCurrent", context)

    def primary_context(self, device: int) -> int:
        """The one that the array libraries work in on a device; it is made if it is not there, and then stays."""
        return self._made("cuDevicePrimaryCtxRetain", self._device(device))

    def attribute(self, number: int, device: int) -> int:
        """An attribute of a device, which needs no context."""
        return self._number("cuDeviceGetAttribute", number, self._device(device))

    def current_device(self) -> int:
        """The number of the device whose context is current; 0 where none is, as CUDA's runtime has it."""
        return self._number("cuCtxGetDevice") if self.current_context() else 0

    def device_of(self, address: int) -> int:
        """The number of the device that memory is on, which needs no context."""
        return self._number("cuPointerGetAttribute", _DEVICE_ORDINAL, address)

    def _device(self, index: int) -> int:
        return self._number("cuDeviceGet", index)

    def exchange_capture_mode(self, mode: int) -> int:
        """Set how the calling thread's calls bear on captures in progress; what was set before."""
        value = ctypes.c_int(mode)
        self._call("cuThreadExchangeStreamCaptureMode", ctypes.byref(value))
        return value.value

    # Memory; in whichever context, it is given back by its address.

    def free_bytes(self) -> int:
        """Memory of the device that nobody has."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, nbytes: int) -> int:
        """The address of new memory on the device."""
        return self._made("cuMemAlloc_v2", nbytes)

    def free(self, address: int) -> None:
        """Give such memory back, after all that is queued on the device."""
        self._call("cuMemFree_v2", address)

    def allocate_host(self, nbytes: int) -> int:
        """The address of new page-locked host memory."""
        return self._made("cuMemHostAlloc", nbytes, _PORTABLE)

    def free_host(self, address: int) -> None:
        """Give such memory back."""
        self._call("cuMemFreeHost", address)

    def clear(self, address: int, nbytes: int) -> None:
        """Fill memory of the device with zeros, and wait for nothing else."""
        # The default stream would wait for the caller's, and may not be used beside a capture.
        stream = self._made("cuStreamCreate", _NON_BLOCKING)
        try:
            self._call("cuMemsetD8Async", address, 0, nbytes, stream)
            self._call("cuStreamSynchronize", stream)
        finally:
            self._call("cuStreamDestroy_v2", stream)

    # Events.

    def create_event(self) -> int:
        """The handle of a new event."""
        return self._made("cuEventCreate", _DISABLE_TIMING)

    def destroy_event(self, event: int) -> None:
        """Give an event back, which may still be waited for on the device."""
        self._call("cuEventDestroy_v2", event)

    def record_event(self, event: int, stream: int) -> None:
        """Mark this place in a stream."""
        self._call("cuEventRecord", event, stream)

    def synchronize_event(self, event: int) -> None:
        """Have the host wait until the place is reached."""
        self._call("cuEventSynchronize", event)

    def hold_stream(self, stream: int, event: int) -> None:
        """Have what follows in a stream wait until the place is reached."""
        self._call("cuStreamWaitEvent", stream, event, 0)


@cache
def cuda_driver() -> CudaDriver:
    """The machine's, the same object each time.

    Raises:
        OSError: If there is none; `gpu_adam.cuda.driver.find` says it better.
    """
    return CudaDriver(ctypes.CDLL(driver.LIBRARY))
