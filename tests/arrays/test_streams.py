"""A stream of any library, and the handle that CUDA knows it by."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from gpu_adam.arrays import copying_stream, current_stream
from gpu_adam.arrays.libraries import CUPY, NUMBA, NUMPY
from gpu_adam.cuda.streams import handle_of, numba_stream
from gpu_adam.device import Device


class Speaks:
    """A stream with the protocol of CuPy 14, PyTorch 2.13 and numba-cuda 0.30."""

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, 77


@pytest.mark.parametrize(
    ("stream", "handle"),
    [
        (0, 0),
        (2, 2),
        (1 << 47, 1 << 47),
        (Speaks(), 77),
        (SimpleNamespace(cuda_stream=5), 5),  # torch.cuda.Stream
        (SimpleNamespace(ptr=6, device_id=0), 6),  # cupy.cuda.Stream and ExternalStream
        (SimpleNamespace(handle=ctypes.c_void_p(7)), 7),  # numba.cuda's
        (SimpleNamespace(handle=ctypes.c_void_p(0)), 0),
    ],
)
def test_streams_of_every_library(stream: Any, handle: int) -> None:
    assert handle_of(stream) == handle


@pytest.mark.parametrize("stream", [None, True, 1.5, "0", object()])
def test_what_is_no_stream(stream: Any) -> None:
    with pytest.raises(TypeError, match="must be a CUDA stream of CuPy, PyTorch or Numba, or its handle"):
        handle_of(stream)


@pytest.mark.parametrize(("told", "handle"), [(None, 0), ("0", 0), ("", 0), ("1", 2)])
def test_numbas_stream_is_the_one_that_its_driver_takes_0_for(
    told: str | None, handle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM"
    monkeypatch.delenv(name, raising=False)
    if told is not None:
        monkeypatch.setenv(name, told)
    assert numba_stream() == handle
    assert copying_stream(NUMBA, Device("cuda", 1)) == handle
    assert current_stream(NUMBA, Device("cuda", 1)) is None


def test_cupys_stream_is_asked_for_by_the_devices_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    cuda = SimpleNamespace(get_current_stream=lambda device: asked.append(device) or SimpleNamespace(ptr=40 + device))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    for find in (current_stream, copying_stream):
        assert find(CUPY, Device("cuda", 2)) == 42
        assert find(NUMPY, Device("cpu")) is None
    assert asked == [2, 2]


@pytest.mark.gpu
def test_streams_of_a_gpu() -> None:
    cupy = pytest.importorskip("cupy")
    stream = cupy.cuda.Stream(non_blocking=True)
    assert handle_of(stream) == handle_of(cupy.cuda.ExternalStream(stream.ptr)) == stream.ptr
    assert handle_of(cupy.cuda.Stream.null) == 0
