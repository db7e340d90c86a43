"""What a thread works in: the current devices and streams of the array libraries, for another thread that works for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from .per_thread import PER_THREAD, is_default


def adoption() -> Callable[[], None] | None:
    """What makes this thread's current devices and streams those of the thread that calls it.

    ``None`` if that cannot be: a current stream is the thread's own.
    """
    libraries = [*_of_torch(), *_of_cupy()]
    own = is_default() or any(handle == PER_THREAD for handles, _ in libraries for handle in handles)
    return None if own else partial(_adopt, [adopt for _, adopt in libraries])


def _adopt(libraries: Sequence[Callable[[], None]]) -> None:
    for adopt in libraries:
        adopt()


def _of_torch() -> Iterator[tuple[list[int], Callable[[], None]]]:
    """The handles of the current streams, and what makes them another thread's."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        streams = list(map(cuda.current_stream, range(cuda.device_count())))
        adopt = partial(_adopt_torch, cuda, cuda.current_device(), streams)
        yield [stream.cuda_stream for stream in streams], adopt


def _adopt_torch(cuda: Any, device: int, streams: Sequence[Any]) -> None:
    for stream in streams:
        # Only what differs: each device that is made current has a context from then on.
        if cuda.current_stream(stream.device) != stream:
            cuda.set_stream(stream)
    if cuda.current_device() != device:
        cuda.set_device(device)


def _of_cupy() -> Iterator[tuple[list[int], Callable[[], None]]]:
    """As of torch."""
    cuda = getattr(sys.modules.get("cupy"), "cuda", None)
    if cuda is not None and cuda.is_available():
        try:
            count = cuda.runtime.getDeviceCount()
        except cuda.runtime.CUDARuntimeError:
            # As in a child that was forked after CUDA was used.
            return
        streams = list(map(cuda.get_current_stream, range(count)))
        yield [stream.ptr for stream in streams], partial(_adopt_cupy, cuda, cuda.runtime.getDevice(), streams)


def _adopt_cupy(cuda: Any, device: int, streams: Sequence[Any]) -> None:
    for index, stream in enumerate(streams):
        if cuda.get_current_stream(index) != stream:
            with cuda.Device(index):
                stream.use()
    if cuda.runtime.getDevice() != device:
        cuda.Device(device).use()
