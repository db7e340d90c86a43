"""The floating-point formats that parameters and gradients come in, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .lazy import cached_property
from .messages import cut

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


@dataclass(frozen=True)
class Format:
    """One floating-point format.

    Attributes:
        name: NumPy's and PyTorch's name of it, such as ``"float32"``.
        itemsize: Bytes of one element.
    """

    name: str
    itemsize: int

    def __str__(self) -> str:
        return self.name

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype; bfloat16's comes from ``ml_dtypes``, imported only when it is asked for."""
        if self.name == "bfloat16":
            import ml_dtypes

            bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
            return bfloat16
        return np.dtype(self.name)

    @property
    def working(self) -> Format:
        """The format that the arithmetic runs in: float32 for 32 bits or fewer, float64 for float64."""
        return FLOAT64 if self is FLOAT64 else FLOAT32

    @cached_property
    def largest(self) -> float:
        """The largest finite number."""
        return float(self._limits.max)

    @cached_property
    def least(self) -> float:
        """The smallest number above 0, a subnormal one."""
        return float(self._limits.smallest_subnormal)

    @property
    def _limits(self) -> Any:
        if self.name == "bfloat16":
            import ml_dtypes

            return ml_dtypes.finfo(self.dtype)
        return np.finfo(self.dtype)

    def vanishes(self, value: float) -> bool:
        """Whether a number other than 0 is 0 once it is rounded to the format.

        >>> FLOAT32.vanishes(1e-46), FLOAT32.vanishes(1e-45)
        (True, False)
        """
        return 0.0 < abs(value) <= self.least / 2.0

    def __reduce__(self) -> tuple[object, ...]:
        # Formats are compared by identity, so a copy or an unpickled one must be the same object.
        return format_named, (self.name,)


FLOAT64 = Format("float64", 8)


FLOAT32 = Format("float32", 4)


FLOAT16 = Format("float16", 2)


BFLOAT16 = Format("bfloat16", 2)


FORMATS = (FLOAT64, FLOAT32, FLOAT16, BFLOAT16)


_BY_NAME = {format.name: format for format in FORMATS}


def format_named(name: str) -> Format:
    """The format called ``name``; ``KeyError`` for any other."""
    return _BY_NAME[name]


def format_of(dtype: DTypeLike) -> Format:
    """The format of a NumPy dtype.

    Raises:
        TypeError: For any dtype other than float64, float32, float16 and bfloat16, the other byte order included.
    """
    dtype = np.dtype(dtype)
    found = _BY_NAME.get(dtype.name)
    if found is None or not dtype.isnative:
        name = str(dtype) if dtype.names else dtype.name
        raise TypeError(unsupported(name if dtype.isnative else f"{name} in the other byte order"))
    return found


def unsupported(name: str) -> str:
    """What is said of an array whose dtype is none of the formats."""
    return f"has dtype {cut(name)}, which is not supported: use one of {', '.join(_BY_NAME)}"
