"""The same optimizer on GPUs made of host memory and on NumPy arrays, whose bits must agree; with the fixture `engines`."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from gpu_adam.engines.cuda import cupy
from tests.support.gpu_rigs import Array, Host

SHAPES = ((5,), (70, 30), (700,))
FORMATS = (np.float32, np.float32, np.float64)


class HostArray:
    """An array on a GPU made of host memory, of a library that nobody knows."""

    def __init__(self, memory: Array, device: int) -> None:
        self.memory = memory.copy()
        self.device = SimpleNamespace(id=device)
        self.__cuda_array_interface__ = {**self.memory.__array_interface__, "version": 3}


@pytest.fixture
def engines(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(cupy, "engine", lambda: host.engine)
    return host


class Pair:
    """The same optimizer twice: on GPUs, and on NumPy arrays."""

    def __init__(self, host: Host, devices: Sequence[int] = (0, 0, 0), **options: Any) -> None:
        self.host = host
        self.devices = devices
        self._random = np.random.default_rng(1)
        numbers = [self._random.normal(size=shape).astype(f) for shape, f in zip(SHAPES, FORMATS, strict=True)]
        self.params = self.up(numbers)
        self.twins = numbers
        self.on_gpu = GpuAdam(self.params, engine="cupy", **options)
        self.on_cpu = GpuAdam(self.twins, engine="cpu", **options)

    def up(self, arrays: Sequence[Array]) -> list[HostArray]:
        return [HostArray(array, device) for array, device in zip(arrays, self.devices, strict=True)]

    def gradients(self, infinite: bool = False) -> list[Array]:
        arrays = [self._random.normal(size=shape).astype(f) for shape, f in zip(SHAPES, FORMATS, strict=True)]
        if infinite:
            arrays[1][3, 4] = np.inf
        return arrays

    def check(self) -> None:
        self.host.engine.finish()
        for k, (one, other) in enumerate(zip(self.params, self.twins, strict=True)):
            np.testing.assert_array_equal(one.memory, other, f"parameter {k}")
        # Not by way of the state dict, which would need CuPy for its arrays.
        steps, twins = (one._dispatcher.read_steps().tolist() for one in (self.on_gpu, self.on_cpu))
        assert steps == twins
