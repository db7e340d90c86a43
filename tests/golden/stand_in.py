"""The two GPU engines where there is no GPU: over devices made of host memory, with kernels that do nothing but say that they ran.

Arrays are those of a library that says that it is CuPy.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_adam.cuda import contexts
from gpu_adam.engines.cuda import cupy, numba
from tests.support.cuda_cpp.host_gpu import HostEngine

ENGINES = {"cupy": cupy, "numba": numba}


class Ran:
    """A library of kernels that keep a list of their launches."""

    def __init__(self) -> None:
        self.launches: list[str] = []

    def kernel(self, symbol: str) -> Callable[[int, int, int], None]:
        return lambda grid, block, arguments: self.launches.append(f"{symbol} {grid:,} x {block}")


class StandInArray:
    """An array on one of the devices; its elements are left alone, as the kernels leave them."""

    def __init__(self, memory: NDArray[Any], device: int, owner: Any = None) -> None:
        self.memory, self.owner = memory, owner
        self.device = SimpleNamespace(id=device)
        self.data = SimpleNamespace(ptr=memory.__array_interface__["data"][0], device_id=device)
        self.dtype, self.shape, self.strides = memory.dtype, memory.shape, memory.strides
        self.__cuda_array_interface__ = {**memory.__array_interface__, "version": 3}

    def view(self, dtype: np.dtype[Any]) -> StandInArray:
        return StandInArray(self.memory.view(dtype), self.device.id, self.owner)

    def get(self) -> NDArray[Any]:
        return self.memory.copy()

    def __setitem__(self, place: Any, value: Any) -> None:
        self.memory[place] = getattr(value, "memory", value)


StandInArray.__module__ = "cupy"


def library(current_device: Callable[[], int]) -> SimpleNamespace:
    """As much of CuPy as a step asks for."""

    def asarray(stretch: Any) -> StandInArray:
        about = stretch.__cuda_array_interface__
        dtype = np.dtype(about["typestr"])
        nbytes = max(int(np.prod(about["shape"])) * dtype.itemsize, 1)
        raw = (ctypes.c_uint8 * nbytes).from_address(about["data"][0])
        return StandInArray(np.ndarray(about["shape"], dtype, raw, strides=about["strides"]), current_device(), stretch)

    return SimpleNamespace(
        asarray=asarray,
        ascontiguousarray=lambda array: array,
        cuda=SimpleNamespace(
            is_available=lambda: False, get_current_stream=lambda device: SimpleNamespace(ptr=0)
        ),
    )  # fmt: skip


class Gpus:
    """The devices.

    Attributes:
        name: The name of the engine.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._ran = Ran()
        self.engine = HostEngine(self._ran)

    def launches(self) -> list[str]:
        """The kernels that ran since the last call."""
        self.engine.finish()
        found, self._ran.launches = self._ran.launches, []
        return found


@contextmanager
def gpus(name: str) -> Iterator[Gpus]:
    """A block in which ``engine=name`` is such an engine."""
    found = Gpus(name)
    binding = found.engine.binding
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ENGINES[name], "engine", lambda: found.engine)
        # No driver knows these devices.
        patch.setattr(contexts, "contexts", lambda: binding)
        patch.setitem(sys.modules, "cupy", library(lambda: binding.device))
        yield found
