"""What an array is and where it lies, whatever library it comes from."""

from __future__ import annotations

from typing import Any

from .libraries import library_of
from .library import ArrayRef, name_of
from .raised import raise_if_foreign


def probe(array: Any, *, writable: bool = False) -> ArrayRef:
    """The description of an array.

    Args:
        array: A NumPy, CuPy or Numba device array, a torch tensor, or any object with ``__cuda_array_interface__`` or ``__dlpack__``.
        writable: Whether it must be writable.

    Raises:
        TypeError: If it is none of these, means more than its memory says, is immutable where it must not be, or its elements are not
            float64, float32, float16 or bfloat16.
        ValueError: If it is read-only where it must not be, not aligned to its elements, sparse, on an unknown device, or its memory
            was freed.
    """
    found, can_write = library_of(array).describe(array, writable)
    if writable and can_write is None:
        raise ValueError(
            f"is a {name_of(array)}, whose DLPack capsule has no version and so cannot say whether its memory may be written to: "
            "use arrays of a library with DLPack 1.0"
        )
    if writable and not can_write:
        raise ValueError("is read-only: the update happens in the caller's memory")
    if 0 in found.shape:
        return found
    if not found.address:
        raise ValueError("has no memory: it was freed, or its library keeps it elsewhere")
    if found.address % found.format.itemsize:
        raise ValueError(f"starts at address {found.address:#x}, which is no multiple of its element's size")
    return found


def probe_named(array: Any, what: str, *, writable: bool = False) -> ArrayRef:
    """As `probe`, with ``what`` at the beginning of an error's message."""
    try:
        return probe(array, writable=writable)
    except BufferError as error:
        raise_if_foreign(error, array)
        raise ValueError(f"{what} is not handed over by DLPack: {error}") from None
    except (TypeError, ValueError) as error:
        raise_if_foreign(error, array)
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{what} {error}") from None
