"""Strides, and the order in which the elements of a tensor are visited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a C-contiguous array.

    >>> row_major((2, 3, 4))
    (12, 4, 1)
    """
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


@dataclass(frozen=True)
class Walk:
    """The order in which a parameter's elements are visited, and the strides of that journey.

    Dimensions are sorted by the parameter's stride, largest first, dimensions of size 1 dropped, neighbours that continue each
    other merged. For a parameter that is dense in any permutation (C, Fortran, channels-last) it is the order of its memory.
    The state lies in this order, which depends on the parameter alone, so it never moves when a gradient's strides change.

    Attributes:
        shape: Sizes, outermost first; ``()`` for a single element.
        param: The parameter's strides, in elements.
        grad: The gradient's strides, in elements.
    """

    shape: tuple[int, ...]
    param: tuple[int, ...]
    grad: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        """Whether parameter and gradient are both walked one element after the other."""
        return not self.shape or (len(self.shape) == 1 and self.param == (1,) and self.grad == (1,))


def visiting_order(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """The dimensions of size other than 1, by decreasing magnitude of stride (in elements), ties in their own order.

    >>> visiting_order((2, 3), (1, 2))  # Fortran order: the second dimension is the outer one
    (1, 0)
    """
    return tuple(sorted((d for d, n in enumerate(shape) if n != 1), key=lambda d: -abs(strides[d])))


def walk(shape: Sequence[int], param: Sequence[int], grad: Sequence[int]) -> Walk:
    """The journey through a parameter and its gradient of the same ``shape``, strides in elements.

    >>> walk((4, 1, 5), (5, 99, 1), (5, 7, 1)).contiguous
    True
    >>> walk((2, 3), (3, 1), (1, 2))
    Walk(shape=(2, 3), param=(3, 1), grad=(1, 2))
    """
    if 0 in shape:
        return Walk((0,), (1,), (1,))
    dims: list[tuple[int, int, int]] = []
    for d in visiting_order(shape, param):
        size, p, g = shape[d], param[d], grad[d]
        if dims and dims[-1][1] == p * size and dims[-1][2] == g * size:
            size *= dims.pop()[0]
        dims.append((size, p, g))
    sizes, p_strides, g_strides = zip(*dims, strict=True) if dims else ((), (), ())
    return Walk(sizes, p_strides, g_strides)


def overlaps_itself(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether two indices may reach one element: sound, and exact but for interleavings that no array library makes."""
    if 0 in shape:
        return False
    reach = 0
    for d in reversed(visiting_order(shape, strides)):
        if abs(strides[d]) <= reach:
            return True
        reach += (shape[d] - 1) * abs(strides[d])
    return False
