"""The streams that the libraries' users work on."""

from __future__ import annotations

from ..device import Device
from .library import Library


def current_stream(library: Library, device: Device) -> int | None:
    """The stream that a library's user works on, as a handle; ``None`` for a CPU, and to leave the choice to the engine."""
    return None if device.kind == "cpu" else library.stream(device.index)


def copying_stream(library: Library, device: Device) -> int | None:
    """The stream on which a library copies its arrays, as `current_stream`."""
    return None if device.kind == "cpu" else library.copying_stream(device.index)
