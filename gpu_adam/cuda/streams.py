"""Streams of every library, as the handle that CUDA knows them by."""

from __future__ import annotations

from typing import Any

from ..messages import shown
from ..process.per_thread import PER_THREAD, is_default


def numba_stream() -> int:
    """The handle of the stream that Numba works on where none is named: 0, or the thread's own where ``cuda.bindings`` is told so."""
    return PER_THREAD if is_default() else 0


def handle_of(stream: Any) -> int:
    """The handle of a CUDA stream.

    Args:
        stream: CuPy's, PyTorch's or Numba's, an object with ``__cuda_stream__``, or a handle itself.

    Raises:
        TypeError: If it is none of these.

    Example:
        >>> handle_of(0)
        0
    """
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        _, handle = protocol() if callable(protocol) else protocol
        return int(handle)
    for name in ("cuda_stream", "ptr", "handle"):  # PyTorch's, CuPy's, Numba's
        handle = getattr(stream, name, None)
        if handle is not None:
            return int(getattr(handle, "value", handle) or 0)
    raise TypeError(f"stream={shown(stream)}: must be a CUDA stream of CuPy, PyTorch or Numba, or its handle")
