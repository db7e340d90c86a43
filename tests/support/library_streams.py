"""Streams of CuPy and torch, what is queued on them, and captures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tests.support.library_cases import Case

SPIN = 'extern "C" __global__ void spin(long long n) { long long s = clock64(); while (clock64() - s < n) {} }'


class Stream:
    """A stream of CuPy or torch that does not wait for the default one."""

    def __init__(self, case: Case) -> None:
        self.torch = case.library.name.startswith("torch")
        if self.torch:
            import torch

            self.own = torch.cuda.Stream()
            self.current = lambda: torch.cuda.stream(self.own)
        else:
            import cupy

            self.own = cupy.cuda.Stream(non_blocking=True)
            self.current = lambda: self.own
            self.spin = cupy.RawKernel(SPIN, "spin")

    def keep_busy(self, cycles: int = 500_000_000) -> None:
        """Queue a kernel that does nothing for some tenths of a second."""
        if self.torch:
            import torch

            torch.cuda._sleep(cycles)
        else:
            self.spin((1,), (1,), (np.int64(cycles),))

    def done(self) -> bool:
        return bool(self.own.query() if self.torch else self.own.done)

    def wait(self) -> None:
        self.own.synchronize()


def settle(case: Case) -> None:
    """Wait for everything that is queued on the device."""
    if case.library.name == "torch cuda":
        import torch

        torch.cuda.synchronize()
    elif case.engine == "cupy":
        import cupy

        cupy.cuda.Device().synchronize()
    elif case.engine == "numba":
        from numba import cuda

        cuda.synchronize()


@contextmanager
def capturing(case: Case) -> Iterator[None]:
    if case.library.name == "cupy":
        import cupy

        with cupy.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            try:
                yield
            finally:
                stream.end_capture()
    else:
        import torch

        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            yield
