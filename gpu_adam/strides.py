"""Strides, and the order in which the elements of a tensor are visited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod


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


def dense_strides(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """The strides, in elements, of an array without gaps that is visited in the same order.

    >>> dense_strides((2, 3), (1, 10))
    (1, 2)
    """
    dense = [1] * len(shape)
    step = 1
    for d in reversed(visiting_order(shape, strides)):
        dense[d] = step
        step *= shape[d]
    return tuple(dense)


@dataclass(frozen=True)
class Rows:
    """How the rows of a parameter lie that indices into its first dimensions name.

    Attributes:
        sizes: The sizes of these dimensions.
        strides: What an index into each of them adds to the number of a row, which counts rows in the order of memory.
        width: Elements of a row; 0 where the parameter has none.
        axes: The dimensions of a row in the order of memory; empty where that is their own order.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    width: int
    axes: tuple[int, ...] = ()

    @property
    def limit(self) -> int:
        """How many rows there are."""
        return prod(self.sizes)


def rows_of(shape: tuple[int, ...], strides: tuple[int, ...], dims: int) -> Rows | None:
    """The rows that indices into the first ``dims`` dimensions name; ``None`` unless each lies in one piece, and piece after piece.

    >>> rows_of((4, 3, 2), (6, 2, 1), 2)
    Rows(sizes=(4, 3), strides=(3, 1), width=2, axes=())
    >>> rows_of((4, 3, 2), (6, 1, 3), 1)  # channels last
    Rows(sizes=(4,), strides=(1,), width=6, axes=(1, 0))
    >>> rows_of((4, 3), (1, 4), 1) is None  # a row of a transposed matrix lies in pieces
    True
    """
    sizes = shape[:dims]
    if 0 in shape:
        return Rows(sizes, (0,) * dims, 0)
    order, dense = visiting_order(shape, strides), dense_strides(shape, strides)
    inner = [d for d in order if d >= dims]
    if any(strides[d] != dense[d] for d in order) or list(order[len(order) - len(inner) :]) != inner:
        return None
    width = prod(shape[dims:])
    rest = [d for d in range(dims, len(shape)) if d not in inner]
    axes = tuple(d - dims for d in (*inner, *rest)) if inner != sorted(inner) else ()
    return Rows(sizes, tuple(stride // width for stride in dense[:dims]), width, axes)


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
