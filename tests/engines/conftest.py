"""The cache folder of the tests of kernel caches, and a driver that is built for the tests."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_adam.cuda.calls import CudaDriver
from gpu_adam.engines.compile import disk as cache
from gpu_adam.engines.cuda.driver_binding import DriverBinding
from tests.support.machines import build_driver


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kernels"))
    return tmp_path / "kernels"


@pytest.fixture
def unusable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # A file where the folder should be: unlike permissions, it stops the superuser too.
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "kernels"))
    return tmp_path / "file" / "kernels"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return ctypes.CDLL(str(build_driver(tmp_path_factory.mktemp("driver") / "stub") / "libcuda.so.1"))


@pytest.fixture
def stub(shared: Any) -> Iterator[Any]:
    shared.stub_foreign.restype = ctypes.c_void_p
    shared.stub_room(ctypes.c_longlong(1 << 40))
    yield shared
    gc.collect()
    assert (shared.stub_memories(), shared.stub_events(), shared.stub_streams()) == (0, 0, 0)
    shared.cuCtxSetCurrent(None)


@pytest.fixture
def binding(stub: Any) -> DriverBinding:
    return DriverBinding(CudaDriver(stub))
