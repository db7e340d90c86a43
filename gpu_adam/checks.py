"""What callers give, checked: numbers and flags become Python's own; an error names what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, isinf, prod
from numbers import Number as AnyNumber
from numbers import Real
from typing import Any

import numpy as np

from .messages import shown

MOST_STEPS = (1 << 53) - 1
"""Steps that a parameter may have made: a count that travels as float64 is exact."""

MOST_WORDS = (1 << 63) - 1
"""The largest integer of a device's words."""


@dataclass(frozen=True)
class Range:
    """The numbers between two ends; NaN is none of them.

    Attributes:
        low: The lower end.
        high: The upper end.
        has_low: Whether the lower end is among them.
        has_high: Whether the upper end is.
        words: What errors say that a number must be; by default the interval.

    >>> [str(each) for each in (Range(0.0, 1.0), Range(0.0), Range(0.0, has_high=True))]
    ['in [0, 1)', 'in [0, ∞) and finite', 'in [0, ∞]']
    """

    low: float
    high: float = inf
    has_low: bool = True
    has_high: bool = False
    words: str = ""

    def __str__(self) -> str:
        if self.words:
            return self.words
        begin, end = "[" if self.has_low else "(", "]" if self.has_high else ")"
        if self.high < inf:
            return f"in {begin}{self.low:g}, {self.high:g}{end}"
        return f"in {begin}{self.low:g}, ∞{end}" + ("" if self.has_high else " and finite")

    def holds(self, value: float) -> bool:
        """Whether a number is among them."""
        return (
            self.low < value < self.high
            or (self.has_low and value == self.low)
            or (self.has_high and value == self.high)
        )

    def check(self, value: float, name: str, where: str = "", given: Any = None) -> float:
        """The number, if it is among them.

        Args:
            value: The number.
            name: What errors call it.
            where: Where it is, for errors: ``" of …"``.
            given: What it was given as, if that is not a float: it may have become infinite.

        Raises:
            ValueError: If it is not.
        """
        if not self.holds(value):
            told = repr(value) if given is None or not isinf(value) else shown(given)
            raise ValueError(f"{name}={told}{where}: must be {self}")
        return value


FINITE = Range(-inf, has_low=False, words="finite")
POSITIVE = Range(0.0, has_low=False, words="positive and finite")


@cache
def from_zero(below: float = inf) -> Range:
    """The numbers from 0 on that are smaller than another one."""
    return Range(0.0, below)


def number(value: Any, name: str, where: str, within: Range) -> float:
    """A number of Python's own or of a library's, which is kept as it was given and read as often as a step needs it.

    A 0-dimensional array of any library, or one of a single element with no dimensions left, counts as a number.

    Args:
        value: What is given.
        name: What errors call it.
        where: Where they say that it is.
        within: What is allowed.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is out of range, or an array with dimensions.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        shape = getattr(value, "shape", None)
        if shape is None or isinstance(value, np.bool_):
            raise TypeError(f"{name}={shown(value)} of {where}: must be a number")
        refuse_dimensions(shape, f"{name} of {where}")
        if hasattr(value, "dtype") and not has_real_elements(value):
            raise TypeError(f"{name}={shown(value)} of {where}: must be a real number")
    try:
        result = as_float(value)
    except TypeError:
        raise TypeError(f"{name}={shown(value)} of {where}: must be a real number") from None
    return result if within.holds(result) else within.check(result, name, f" of {where}", value)


def real(value: Any, name: str, within: Range | None = None, *, allowed: str = "a number") -> float:
    """A number of any kind, whatever makes itself a float, or a 0-dimensional array: as a float, which is read once.

    Args:
        value: What is given.
        name: What errors call it.
        within: What is allowed of it.
        allowed: What they say that it must be.

    Raises:
        TypeError: If it is no real number.
        ValueError: If it is out of range, or an array with dimensions.
    """
    refuse_dimensions(getattr(value, "shape", ()), name)
    is_number = has_real_elements(value) if hasattr(value, "dtype") else hasattr(value, "__float__")
    if isinstance(value, bool) or not is_number:
        raise TypeError(f"{name}={shown(value)}: must be {allowed}")
    try:
        result = as_float(value)
    except TypeError:
        raise TypeError(f"{name}={shown(value)}: must be {allowed}") from None
    return result if within is None else within.check(result, name, given=value)


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


def step_count(value: Any, label: str) -> int:
    """A count of steps as a state dict may have it: a whole number of any type, or an array of one element.

    Args:
        value: What is saved.
        label: Whose it is, for errors.

    Raises:
        ValueError: If it is no whole number from 0 to `MOST_STEPS`.
    """
    try:
        if isinstance(value, np.ndarray) and not has_real_elements(value):
            raise TypeError
        # Of any library and of one element; PyTorch takes a dimension more, and so do we.
        one = value.item() if hasattr(value, "item") and prod(value.shape) == 1 else value
        # Before it is made a whole number, which of 1e9999999 has as many digits.
        if not 0 <= one <= MOST_STEPS:
            raise ValueError
        count = int(one)
        exact = one if isinstance(one, AnyNumber) else float(one)
        is_whole = not isinstance(one, str) and 0 <= count == exact and count <= MOST_STEPS
    except (TypeError, ValueError, ArithmeticError, RuntimeError):
        is_whole = False
    if not is_whole:
        raise ValueError(
            f"state_dict's step of {label} is {shown(value)}: must be a whole number from 0 to {MOST_STEPS}"
        )
    return count


def flag(value: Any, name: str, where: str = "") -> bool:
    """A truth value of Python's or NumPy's, as a bool.

    Args:
        value: What is given.
        name: What errors call it.
        where: Where it is, for errors: ``" of …"``.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}={shown(value)}{where}: must be True or False")
    return bool(value)


def refuse_dimensions(shape: Sequence[int], name: str, *, but_one: bool = False) -> None:
    """Raise `ValueError` for an array with dimensions where a number is wanted, unless that is ``but_one`` of one element."""
    shape = tuple(shape)
    if shape and not (but_one and shape == (1,)):
        raise ValueError(f"{name} has shape {shape}: must be a number or a 0-dimensional array")


def has_real_elements(array: Any) -> bool:
    """Whether what an array of any library holds are integers or floats; not truth values, text, or objects, nor masked ones."""
    dtype = getattr(array, "dtype", None)
    name = str(getattr(dtype, "name", dtype))
    return ("float" in name or "int" in name) and not hasattr(array, "mask")


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
