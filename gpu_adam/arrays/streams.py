"""The streams that the libraries' users work on."""

from __future__ import annotations

from ..cuda.streams import numba_stream
from ..device import Device
from .probe import Family


def current_stream(family: Family, device: Device) -> int | None:
    """The stream that a library's user works on, as a handle; ``None`` for a CPU, and to leave the choice to the engine."""
    if device.kind == "cpu":
        return None
    if family == "torch":
        import torch

        return int(torch.cuda.current_stream(device.index).cuda_stream)
    if family == "cupy":
        import cupy

        return int(cupy.cuda.get_current_stream(device.index).ptr)
    return None


def copying_stream(family: Family, device: Device) -> int | None:
    """The stream on which a library copies its arrays, as `current_stream`; Numba's is always the default one."""
    return numba_stream() if family == "numba" else current_stream(family, device)
