"""Steps on a stream that the arrays' library does not work on, on GPUs made of host memory; with the fixture `host`."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from gpu_adam.engines.cuda import cupy
from tests.support import host_library
from tests.support.cuda_cpp import build
from tests.support.cuda_cpp.host_gpu import HostEngine
from tests.support.host_library import KeptPair

SIDE, OTHER = 11, 12


@pytest.fixture
def host(library: build.Library, monkeypatch: pytest.MonkeyPatch) -> Any:
    engine = HostEngine(library)
    host_library.use(monkeypatch, engine.binding)
    monkeypatch.setattr(cupy, "engine", lambda: engine)
    return SimpleNamespace(engine=engine, binding=engine.binding)


class Streamed(KeptPair):
    """A pair whose first steps on a stream that its library does not work on."""

    def __init__(self, host: Any, devices: Sequence[int] = (0, 0, 0), **options: Any) -> None:
        super().__init__(host, devices, **options)
        self.kept: list[Any] = []

    def step(self, stream: int | None = SIDE) -> None:
        gradients = self.gradients()
        self.kept.append(self.up(gradients))
        self.on_gpu.step(self.kept[-1], stream=stream)
        self.on_cpu.step(gradients)
