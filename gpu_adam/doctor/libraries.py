"""The libraries in whose memory the engines work: what the doctor needs of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dtypes import BFLOAT16, FORMATS, Format
from ..engines import engine_named

CPU_ELEMENTS = 1 << 23
GPU_ELEMENTS = 1 << 26
"""Parameters of the step whose speed is measured: several times what caches hold."""

Array = NDArray[Any]


class Library:
    """NumPy; the GPU's libraries differ in each of these."""

    formats: tuple[Format, ...] = FORMATS
    elements = CPU_ELEMENTS

    def put(self, array: Array) -> Any:
        """A copy in the library's memory."""
        return array.copy()

    def fill(self, view: Any, array: Array) -> None:
        """Write into an array of the library."""
        view[...] = array

    def copier(self, elements: int) -> Callable[[], object]:
        """What moves as many bytes as a step on so many float32 parameters and computes nothing, with as many threads."""
        # On a CPU a copy from one place to another would first read the place that it is going to overwrite. So three streams are turned
        # over where they are, and the fourth is only read. NumPy releases the GIL meanwhile.
        pool = engine_named("cpu").pool  # type: ignore[attr-defined]
        streams = [np.ones(elements, np.uint32) for _ in range(4)]
        cuts = [elements * k // pool.count // 1024 * 1024 for k in range(pool.count)] + [elements]
        parts = [tuple(stream[cuts[k] : cuts[k + 1]] for stream in streams) for k in range(pool.count)]
        return lambda: pool.run(_move, parts)

    def synchronize(self) -> None:
        """Wait until all that was queued is done."""


class _Cupy(Library):
    elements = GPU_ELEMENTS

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy

    def put(self, array: Array) -> Any:
        if array.dtype == BFLOAT16.dtype:
            return self._cupy.asarray(array.view(np.int16)).view(BFLOAT16.dtype)
        return self._cupy.asarray(array)

    def fill(self, view: Any, array: Array) -> None:
        view[...] = self.put(array)

    def copier(self, elements: int) -> Callable[[], object]:
        # Each of the 14 bytes is read and written.
        source, to = (self._cupy.zeros(14 * elements, np.uint8) for _ in range(2))
        return lambda: to.data.copy_from_device_async(source.data, to.nbytes, self._cupy.cuda.get_current_stream())

    def synchronize(self) -> None:
        self._cupy.cuda.get_current_stream().synchronize()


class _Numba(Library):
    formats = tuple(format for format in FORMATS if format is not BFLOAT16)  # which its device arrays do not know
    elements = GPU_ELEMENTS

    def __init__(self) -> None:
        from numba import cuda

        self._cuda = cuda

    def put(self, array: Array) -> Any:
        return self._cuda.to_device(array)

    def fill(self, view: Any, array: Array) -> None:
        view.copy_to_device(array)

    def copier(self, elements: int) -> Callable[[], object]:
        source, to = (self._cuda.to_device(np.zeros(14 * elements, np.uint8)) for _ in range(2))
        return lambda: to.copy_to_device(source)

    def synchronize(self) -> None:
        self._cuda.synchronize()


def _move(p: Array, m: Array, v: Array, g: Array) -> None:
    for stream in (p, m, v):
        np.invert(stream, out=stream)
    np.bitwise_or.reduce(g)


LIBRARIES: dict[str, Callable[[], Library]] = {"cpu": Library, "cupy": _Cupy, "numba": _Numba}
