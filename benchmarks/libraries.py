"""The libraries that hold the arrays, behind one small interface."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gpu_adam import EngineUnavailable
from gpu_adam.engines import ENGINES, engine_named

Array = NDArray[Any]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Host:
    """NumPy."""

    xp = np

    def put(self, array: Array) -> Any:
        """A copy that is independent of the start values."""
        return array.copy()

    def fill(self, view: Any, array: Array) -> None:
        """Write into an array."""
        view[...] = array

    def synchronize(self) -> None:
        """Nothing is behind."""


class Cupy:
    """CuPy."""

    def __init__(self) -> None:
        import cupy

        self.xp = cupy

    def put(self, array: Array) -> Any:
        """A copy on the device."""
        if array.dtype == BFLOAT16:  # as words, for CuPy versions that cannot copy it
            return self.xp.asarray(array.view(np.int16)).view(BFLOAT16)
        return self.xp.asarray(array)

    def fill(self, view: Any, array: Array) -> None:
        """Write into an array."""
        self.copy(view, self.put(array))

    def copy(self, to: Any, source: Any) -> None:
        """A copy on the device."""
        word = f"u{to.dtype.itemsize}"  # as words, for the same reason
        to.view(word)[...] = source.view(word)

    def synchronize(self) -> None:
        """Wait for the device."""
        self.xp.cuda.Device().synchronize()


class Numba:
    """Numba's device arrays."""

    def __init__(self) -> None:
        from numba import cuda

        self.cuda = cuda

    def put(self, array: Array) -> Any:
        """A copy on the device."""
        return self.cuda.to_device(array)

    def fill(self, view: Any, array: Array) -> None:
        """Write into an array."""
        view.copy_to_device(array)

    copy = fill

    def synchronize(self) -> None:
        """Wait for the device."""
        self.cuda.synchronize()


class Torch:
    """PyTorch's CUDA tensors."""

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def put(self, array: Array) -> Any:
        """A copy on the device."""
        words = self.torch.from_numpy(array.view(f"i{array.dtype.itemsize}"))
        return words.view(getattr(self.torch, array.dtype.name)).to("cuda")

    def fill(self, view: Any, array: Array) -> None:
        """Write into a tensor."""
        view.detach().copy_(self.put(array))

    def copy(self, to: Any, source: Any) -> None:
        """A copy on the device."""
        to.copy_(source)

    def synchronize(self) -> None:
        """Wait for the device."""
        self.torch.cuda.synchronize()


def engines_at_hand() -> list[str]:
    """The engines that can run here."""
    found = []
    for name in ENGINES:
        try:
            engine_named(name)
        except EngineUnavailable:
            continue
        found.append(name)
    return found


def has_torch(device: str = "cpu") -> bool:
    """Whether torch can be imported, and has the device."""
    try:
        import torch
    except ImportError:
        return False
    return device == "cpu" or bool(torch.cuda.is_available())
