"""Parameters and gradients whose memory, dtype, shape or strides change under their names, in memory that is watched to the byte."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpu_adam import GpuOptimizer, GpuSgd
from tests.support.torch_tensors import as_torch

torch = pytest.importorskip("torch", reason="torch is not installed")

FORMATS = ("float64", "float32", "float16", "bfloat16")
OTHER = {"float64": "float32", "float32": "float16", "float16": "bfloat16", "bfloat16": "float16"}
SIZE = 6
SHAPE = (2, 3)
_ARENA = 1 << 14

PACK = pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
READING = pytest.mark.parametrize("reading", ["structures", "attributes"], indirect=True)
DEPRECATED = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of setting an array's shape and strides


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def meaning(array: Any) -> np.ndarray[Any, Any]:
    """What a name says its elements are, in its shape."""
    if isinstance(array, torch.Tensor):
        return array.detach().resolve_neg().double().numpy().copy()
    return np.asarray(array).astype(np.float64)


class Watched:
    """Memory that new arrays are cut from, none of which is ever given back, with a stretch of numbers of nobody's around each."""

    def __init__(self, library: str, format: str) -> None:
        self.library = library
        self.format = format
        self.memory = np.arange(_ARENA, dtype=np.uint8)
        self._used = 64
        self.kept: list[Any] = []

    def numbers(self, start: float, size: int = SIZE, format: str | None = None) -> np.ndarray[Any, Any]:
        """New memory: ``start``, ``start + 1``, …"""
        dtype = dtype_of(format or self.format)
        place = self.memory[self._used : self._used + size * dtype.itemsize].view(dtype)
        self._used += -(-size * dtype.itemsize // 64) * 64 + 64
        place[...] = np.arange(start, start + size)
        return place

    def array(self, start: float, shape: tuple[int, ...] = SHAPE, format: str | None = None) -> Any:
        """The same as an array of the library; a torch parameter lies in memory of torch's own where it must be resized."""
        numbers = self.numbers(start, int(np.prod(shape)), format).reshape(shape)
        return as_torch(numbers) if self.library == "torch" else numbers

    def outside(self, arrays: list[Any]) -> np.ndarray[Any, Any]:
        """A copy of all bytes but those of these arrays, which are zeros."""
        copy = self.memory.copy()
        base = self.memory.ctypes.data
        for array in arrays:
            if isinstance(array, torch.Tensor):
                address, strides = array.data_ptr(), [s * array.element_size() for s in array.stride()]
                shape, itemsize = array.shape, array.element_size()
            else:
                address, strides, shape, itemsize = array.ctypes.data, array.strides, array.shape, array.itemsize
            for index in np.ndindex(*shape):
                at = address - base + sum(i * s for i, s in zip(index, strides, strict=True))
                if 0 <= at < _ARENA:
                    copy[at : at + itemsize] = 0
        return copy


Change = Callable[[Any, Watched], Any]


def alias(tensor: Any, watched: Watched) -> Any:
    """The same memory under a storage of its own."""
    if not tensor.is_contiguous() or tensor.is_neg():
        raise ValueError("not made for it")
    watched.kept.append(tensor.detach())
    nbytes = tensor.numel() * tensor.element_size()
    flat = torch.from_numpy(np.frombuffer((ctypes.c_char * nbytes).from_address(tensor.data_ptr()), np.uint8))
    return flat.view(tensor.dtype).reshape(tensor.shape)


def step(
    optimizer: GpuOptimizer, watched: Watched, params: list[Any], gradients: list[Any], run: Callable[[], None]
) -> str:
    """Run a step of `GpuSgd` with ``lr=1``, and return what it refused.

    It has either refused and changed nothing at all, or taken from each parameter, as it is now, its gradient, as it is now, and
    changed nothing beside them.
    """
    before = [meaning(p) for p in params]
    memory, counts = watched.memory.copy(), optimizer._dispatcher.read_steps().copy()
    outside = watched.outside(params)
    try:
        run()
    except (ValueError, TypeError) as error:
        assert (watched.memory == memory).all(), "a refused step has written"
        assert (optimizer._dispatcher.read_steps() == counts).all()
        for p, was in zip(params, before, strict=True):
            assert (meaning(p) == was).all()
        refused = str(error)
        assert "parameter" in refused
        return refused
    for p, was, gradient in zip(params, before, gradients, strict=True):
        taken = meaning(gradient)
        wanted = was - taken
        # Small whole numbers are exact in every format; others, of bytes that were taken for another format, are rounded.
        exact = all((one == one.round()).all() and (np.abs(one) <= 128).all() for one in (was, taken))
        room = 0.0 if exact else 2.0**-7 * np.abs([was, taken]).max()
        now = meaning(p)
        with np.errstate(invalid="ignore"):  # of infinities
            assert ((now == wanted) | (np.abs(now - wanted) <= room)).all(), (now, wanted)
    assert (watched.outside(params) == outside).all(), "a step has written beside the parameters"
    return ""


def sgd(params: list[Any], **options: Any) -> GpuSgd:
    return GpuSgd({f"p{k}": p for k, p in enumerate(params)}, lr=1.0, **options)
