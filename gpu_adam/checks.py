"""Numbers that callers give, as Python's own: whatever they are given as, and however large, an error names them."""

from __future__ import annotations

from math import inf, isfinite, isinf
from numbers import Real
from typing import Any

import numpy as np

from .messages import shown

MOST_STEPS = (1 << 53) - 1
"""Steps that a parameter may have made: a count that travels as float64 is exact."""

MOST_WORDS = (1 << 63) - 1
"""The largest integer of a device's words."""


def as_float(value: Any) -> float:
    """A number as a float, infinite where it is beyond all floats: an integer, a fraction.

    Raises:
        TypeError: If it is none.
    """
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf
    except (ValueError, RuntimeError) as error:
        raise TypeError(str(error)) from None


def has_real_elements(array: Any) -> bool:
    """Whether what an array of any library holds are integers or floats; not truth values, text, or objects, nor masked ones."""
    dtype = getattr(array, "dtype", None)
    name = str(getattr(dtype, "name", dtype))
    return ("float" in name or "int" in name) and not hasattr(array, "mask")


def real(value: Any, name: str, allowed: str = "a number") -> float:
    """A number of any kind, or a 0-dimensional array, as a float.

    Args:
        value: What is given.
        name: What errors call it.
        allowed: What they say that it must be.

    Raises:
        TypeError: If it is no real number.
        ValueError: If it is an array with dimensions.
    """
    shape = tuple(getattr(value, "shape", ()))
    if shape:
        raise ValueError(f"{name} has shape {shape}: must be a number or a 0-dimensional array")
    is_number = has_real_elements(value) if hasattr(value, "dtype") else hasattr(value, "__float__")
    if isinstance(value, bool) or not is_number:
        raise TypeError(f"{name}={shown(value)}: must be {allowed}")
    try:
        return as_float(value)
    except TypeError:
        raise TypeError(f"{name}={shown(value)}: must be {allowed}") from None


def whole(value: Any, name: str, least: int, most: int, where: str = "") -> int:
    """A whole number in ``[least, most]``, as an int.

    Args:
        value: What is given, of a type of integers.
        name: What errors call it.
        least: The smallest that is allowed.
        most: The largest.
        where: Where it is, for errors: ``" of …"``.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it is out of the range.
    """
    try:
        count = None if isinstance(value, bool) or not hasattr(value, "__index__") else int(value.__index__())
    except (TypeError, ValueError, RuntimeError):  # an array that has several, or floats
        count = None
    if count is None:
        raise TypeError(f"{name}={shown(value)}{where}: must be a whole number")
    if count < least:
        raise ValueError(f"{name}={shown(count)}{where}: must be at least {least}")
    if count > most:
        raise ValueError(f"{name}={shown(count)}{where}: must be at most {most}")
    return count


def number(value: Any, name: str, where: str, *, below: float = inf) -> float:
    """``value`` as a float in ``[0, below)``.

    A 0-dimensional array of any library, or one of a single element with no dimensions left, counts as a number.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is out of range or not finite, or an array with dimensions.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        shape = getattr(value, "shape", None)
        if shape is None or isinstance(value, np.bool_):
            raise TypeError(f"{name}={shown(value)} of {where}: must be a number")
        if tuple(shape):
            raise ValueError(f"{name} of {where} has shape {tuple(shape)}: must be a number or a 0-dimensional array")
        if hasattr(value, "dtype") and not has_real_elements(value):
            raise TypeError(f"{name}={shown(value)} of {where}: must be a real number")
    try:
        result = as_float(value)
    except TypeError:
        raise TypeError(f"{name}={shown(value)} of {where}: must be a real number") from None
    if not (0.0 <= result < below and isfinite(result)):
        given = shown(value) if isinf(result) else repr(result)
        raise ValueError(f"{name}={given} of {where}: must be in {_range(below)}")
    return result


def _range(below: float) -> str:
    return f"[0, {below:g})" if below < inf else "[0, ∞) and finite"
