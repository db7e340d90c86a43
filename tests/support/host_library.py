"""A library whose arrays lie on a GPU made of host memory: its copies wait in the stream that its user works on."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_adam.arrays import cuda_interface
from gpu_adam.arrays.libraries.foreign import FOREIGN
from tests.support.cuda_cpp.host_gpu import HostBinding
from tests.support.host_pairs import HostArray, Pair


class HostView(HostArray):
    """An array of the library, over memory of somebody's; what is done with it is queued."""

    def __init__(self, binding: HostBinding, memory: np.ndarray[Any, Any], device: int, owner: Any = None) -> None:
        self.binding = binding
        self.memory = memory
        self.owner = owner
        self.device = SimpleNamespace(id=device)
        self.__cuda_array_interface__ = {**memory.__array_interface__, "version": 3}

    def _queue(self, to: np.ndarray[Any, Any], source: np.ndarray[Any, Any]) -> None:
        binding = self.binding
        with binding.on(self.device.id):
            binding.streams.queue(binding.key(binding.current), lambda: np.copyto(to, source))

    def copy(self, order: str) -> HostView:
        fresh = HostView(self.binding, np.empty_like(self.memory), self.device.id)
        self._queue(fresh.memory, self.memory)
        return fresh

    def get(self) -> np.ndarray[Any, Any]:
        """A copy on the host, after what its stream holds and nothing else."""
        out = self.copy("K")
        with self.binding.on(self.device.id):
            self.binding.streams.finish(self.binding.key(self.binding.current))
        return out.memory

    def set(self, value: np.ndarray[Any, Any]) -> None:
        self._queue(self.memory, value.copy())

    def fill(self, value: float) -> None:
        self._queue(self.memory, np.full_like(self.memory, value))

    def __float__(self) -> float:
        return float(self.get())


def use(monkeypatch: pytest.MonkeyPatch, binding: HostBinding) -> None:
    """Have views of the GPU's memory be of this library."""

    def device_view(stretch: Any, device: int, format: Any) -> HostView:
        given = stretch.interface
        nbytes = max(int(np.prod(given["shape"])) * format.itemsize, 1)
        raw = (ctypes.c_uint8 * nbytes).from_address(given["data"][0])
        memory = np.ndarray(given["shape"], format.dtype, raw, strides=given["strides"])
        return HostView(binding, memory, device, stretch)

    monkeypatch.setattr(FOREIGN, "device_view", device_view)
    # The library works on the current device as CuPy does, and needs no other driver.
    monkeypatch.setattr(cuda_interface, "on_device", binding.on)


class KeptPair(Pair):
    """A pair whose arrays stay as long as the GPU does, whose queued work may still be in need of them when the test is over."""

    def up(self, arrays: Sequence[np.ndarray[Any, Any]]) -> list[HostArray]:
        made = super().up(arrays)
        kept = self.host.__dict__.setdefault("arrays", [])
        kept.extend(one.memory for one in made)
        return made
