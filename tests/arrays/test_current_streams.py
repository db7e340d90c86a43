"""Another thread works on the streams and devices that are current in the thread that it works for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from gpu_adam.process.current_streams import adoption
from gpu_adam.process.uninterrupted import uninterrupted

PER_THREAD = 2


class Library(threading.local):
    """What a library has for each thread: the current device, and each device's current stream, all 0 at first.

    Attributes:
        touched: The devices that were made current, each of which has a context from then on.
    """

    def __init__(self) -> None:
        self.device = 0
        self.streams = [0, 0, 0]
        self.touched: set[int] = set()

    def use(self, device: int) -> None:
        self.device = device
        self.touched.add(device)

    def state(self) -> tuple[int, list[int]]:
        return self.device, list(self.streams)


def torch_of(library: Library) -> Any:
    def current_stream(device: int) -> Any:
        return SimpleNamespace(device=device, cuda_stream=library.streams[device])

    def set_stream(stream: Any) -> None:
        library.use(stream.device)
        library.streams[stream.device] = stream.cuda_stream

    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 3,
        current_device=lambda: library.device,
        current_stream=current_stream,
        set_stream=set_stream,
        set_device=library.use,
    )
    return SimpleNamespace(cuda=cuda)


def cupy_of(library: Library) -> Any:
    class Stream(SimpleNamespace):
        def use(self) -> None:
            library.streams[library.device] = self.ptr

    class Device:
        def __init__(self, number: int) -> None:
            self.number = number

        def use(self) -> None:
            library.use(self.number)

        def __enter__(self) -> None:
            self.before = library.device
            self.use()

        def __exit__(self, *_: object) -> None:
            library.use(self.before)

    cuda = SimpleNamespace(
        is_available=lambda: True,
        runtime=SimpleNamespace(getDeviceCount=lambda: 3, getDevice=lambda: library.device),
        get_current_stream=lambda device: Stream(ptr=library.streams[device]),
        Device=Device,
    )
    return SimpleNamespace(cuda=cuda)


@pytest.fixture(params=["torch", "cupy"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library()
    monkeypatch.setitem(sys.modules, request.param, {"torch": torch_of, "cupy": cupy_of}[request.param](found))
    monkeypatch.delitem(sys.modules, "cupy" if request.param == "torch" else "torch", raising=False)
    return found


@contextmanager
def streams(library: Library, device: int, *handles: int) -> Iterator[None]:
    before = library.state()
    library.device, library.streams = device, list(handles)
    yield
    library.device, library.streams = before


def test_the_other_thread_has_the_callers_device_and_streams(library: Library) -> None:
    for device, handles in ((0, (0, 0, 0)), (0, (7, 0, 0)), (2, (0, 5, 9)), (1, (0, 0, 9)), (0, (0, 0, 0))):
        with streams(library, device, *handles):
            assert uninterrupted(library.state) == (device, list(handles))
            assert uninterrupted(threading.get_ident) != threading.get_ident()


def test_a_device_that_is_not_used_gets_no_context(library: Library) -> None:
    def touched() -> set[int]:
        return set(library.touched)

    with streams(library, 0, 4, 0, 0):
        before = uninterrupted(touched)
        library.streams[0] = 6
        assert uninterrupted(touched) <= {0, *before}


def test_work_on_a_stream_of_the_threads_own_stays_in_the_thread(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    with streams(library, 0, 0, PER_THREAD, 0):
        assert adoption() is None
        assert uninterrupted(threading.get_ident) == threading.get_ident()
    assert uninterrupted(threading.get_ident) != threading.get_ident()
    monkeypatch.setenv("CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM", "1")
    assert uninterrupted(threading.get_ident) == threading.get_ident()
