"""Gradients of some rows of a parameter, such as those of the embeddings that a batch looked up.

A row is what one index into each of the first ``k`` dimensions names: a row of a matrix where ``k`` is 1, a single element of it
where ``k`` is 2. Rows may come in any order and more than once. They are numbered as they lie in memory and sorted by the arrays' own
library, stably, and summed by our own kernel, in the order in which they were given, into a buffer that the step then reads like any
gradient; its work grows with the rows that were given and not with the parameter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import ArrayRef, library_of, name_of, probe_named
from ..dtypes import Format
from ..engines import Memory, SumArguments
from ..kernels.abi import WORD
from ..state.parameter import Placed
from ..strides import Rows, row_major, rows_of


@dataclass(frozen=True)
class SparseGradient:
    """The gradient of some rows of a parameter.

    Attributes:
        values: The rows' gradients, one after the other, each in the order in which its elements lie in the parameter.
        count: How many there are.
        width: Elements of a row.
        limit: Rows of the parameter.
        ranked: The rows' numbers in their order, int64, in memory that the engine reads.
        order: For each of these its place among the values; equal numbers are in the order in which they were given.
    """

    values: ArrayRef
    count: int
    width: int
    limit: int
    ranked: Any = field(repr=False, compare=False)
    order: Any = field(repr=False, compare=False)

    @property
    def capacity(self) -> int:
        """The power of two that a buffer must have room for: launches and tables change with it only."""
        return 1 << max(self.count - 1, 0).bit_length()


def is_sparse(gradient: Any) -> bool:
    """Whether a gradient is given as ``(indices, values)``, or is a sparse torch tensor, which says the same."""
    if isinstance(gradient, tuple):
        return len(gradient) == 2
    return getattr(gradient, "is_sparse", False) is True


def sparse_gradient(placed: Placed, gradient: Any, what: str) -> SparseGradient:
    """A gradient of rows, checked against its parameter.

    Args:
        placed: The parameter.
        gradient: Indices (k, n), or (n,) for k = 1, and values (n, …) of the parameter's other dimensions; or a sparse torch tensor.
        what: What errors call it.

    Raises:
        TypeError: If the indices are no integers, or the values no floats.
        ValueError: If shapes, devices or, on a CPU, indices do not fit, or if the rows do not lie one after the other in the parameter.
    """
    ref = placed.ref
    if isinstance(gradient, tuple):
        indices, values = gradient
    else:
        if tuple(gradient.shape) != ref.shape:
            raise ValueError(f"{what} has shape {tuple(gradient.shape)}: must be {ref.shape}")
        indices, values = gradient._indices(), gradient._values()
    dims, count = _checked_indices(indices, ref, f"the indices of {what}")
    rows = rows_of(ref.shape, ref.strides, dims)
    if rows is None:
        raise ValueError(
            f"{what} has indices into {dims} of {len(ref.shape)} dimensions: what they name must lie in one piece and piece after piece "
            f"in the parameter, which has shape {ref.shape} and strides {ref.strides}"
        )
    found = _checked_values(values, ref, rows, count, f"the values of {what}")
    ranked, order = library_of(indices).ranked(indices, rows.sizes, rows.strides, ref.device)
    if ref.device.kind == "cpu" and count and (ranked[0] < 0 or ranked[-1] >= rows.limit):
        raise _out_of_range(np.asarray(indices).reshape(dims, count), rows, f"the indices of {what}")
    return SparseGradient(found, count, rows.width, rows.limit, ranked, order)


def _checked_indices(indices: Any, ref: ArrayRef, what: str) -> tuple[int, int]:
    """How many dimensions indices are for, and of how many rows they are."""
    shape, name = tuple(getattr(indices, "shape", ())), str(getattr(indices, "dtype", type(indices).__name__))
    if name.removeprefix("torch.") not in ("int32", "int64"):
        raise TypeError(f"{what} are {name}: must be an array of int64 or int32")
    if isinstance(indices, np.ndarray) and type(indices) is not np.ndarray:
        raise TypeError(f"{what} are a {name_of(indices)}: must be a numpy.ndarray")
    where = str(getattr(indices, "device", "cpu"))
    if ref.device.kind == "cpu" and where.startswith("cuda"):
        raise ValueError(f"{what} live on {where}: must be on {ref.device}, where the parameter is")
    dims, count = (1, *shape) if len(shape) == 1 else shape if len(shape) == 2 else (-1, 0)
    if not 0 <= dims <= len(ref.shape):
        raise ValueError(f"{what} have shape {shape}: must be (n,) or (k, n), with k at most {len(ref.shape)}")
    return dims, count


def _checked_values(values: Any, ref: ArrayRef, rows: Rows, count: int, what: str) -> ArrayRef:
    """The values, as they lie one after the other, perhaps in a copy."""
    found = probe_named(values, what)  # as they are given: what they mean is lost in a contiguous copy
    wanted = (count, *ref.shape[len(rows.sizes) :])
    if found.shape != wanted:
        raise ValueError(f"{what} have shape {found.shape}: must be {wanted}")
    if found.device != ref.device:
        raise ValueError(f"{what} live on {found.device}: must be on {ref.device}, where the parameter is")
    if rows.axes and count:
        shape, strides = ([of[0], *(of[1 + axis] for axis in rows.axes)] for of in (found.shape, found.strides))
        values = found.library.view(found.device, found.address, found.format, shape, strides, values)
    found = probe_named(library_of(values).contiguous(values), what)
    wanted = row_major(found.shape)
    if 0 not in found.shape and any(
        n != 1 and a != b for n, a, b in zip(found.shape, found.strides, wanted, strict=True)
    ):
        raise ValueError(f"{what} have strides {found.strides}: must lie row after row, with strides {wanted}")
    return found


def _out_of_range(indices: NDArray[Any], rows: Rows, what: str) -> ValueError:
    ends = [(own.min(), own.max(), size) for own, size in zip(indices, rows.sizes, strict=True)]
    dim = next(d for d, (low, high, size) in enumerate(ends) if low < 0 or high >= size)
    low, high, size = ends[dim]
    return ValueError(f"{what} go from {low} to {high} in dimension {dim}: must be in [0, {size})")


class SparseBuffer:
    """The room where the rows of one parameter's gradient are summed, whatever their width; it grows and does not move otherwise."""

    def __init__(self, placed: Placed) -> None:
        self._placed = placed
        self._elements, self._room = 0, 0
        self._sums: Memory | None = None
        self._rows: Memory | None = None
        self._held: SparseGradient | None = None

    @property
    def format(self) -> Format:
        """The format of the sums, the working one."""
        return self._placed.ref.format.working

    def ensure(self, capacity: int, width: int) -> None:
        """Make room for so many rows of ``width`` elements."""
        if capacity <= self._room and capacity * width <= self._elements:
            return
        # Both anew, so that an address of sums that is still the same tells that all is.
        room, elements = max(capacity, self._room), max(capacity * width, self._elements)
        engine, device = self._placed.engine, self._placed.ref.device
        sums = engine.allocate(device, elements * self.format.itemsize)
        self._rows = engine.allocate(device, 3 * room * WORD)
        self._sums, self._room, self._elements = sums, room, elements

    @property
    def addresses(self) -> tuple[int, int]:
        """Where the sums lie, and their rows' numbers."""
        assert self._sums is not None
        assert self._rows is not None
        return self._sums.address, self._rows.address

    def take(self, gradient: SparseGradient, capacity: int, stream: int | None) -> None:
        """Sum the rows of a gradient into the first ``capacity`` ones of the room, in the order of the stream."""
        assert self._rows is not None
        # Held until the next step, so that its library does not give the memory out before the kernel has read it.
        self._held = gradient
        order, ranked = self._addresses(gradient)
        sums, rows = self.addresses
        work = SumArguments(
            values=gradient.values.address,
            values_format=gradient.values.format,
            working=self.format,
            out=sums,
            indices=rows,
            width=gradient.width,
            count=gradient.count,
            capacity=capacity,
            order=order,
            ranked=ranked,
            limit=gradient.limit,
        )
        self._placed.engine.coalesce(work, stream)

    def _addresses(self, gradient: SparseGradient) -> tuple[int, int]:
        """Where the kernel finds the places and the numbers of the rows."""
        pair = gradient.order, gradient.ranked
        if not isinstance(gradient.ranked, np.ndarray):
            first, second = (library_of(array).address(array) for array in pair)
            return first, second
        if self._placed.ref.device.kind == "cpu":
            return gradient.order.ctypes.data, gradient.ranked.ctypes.data
        assert self._rows is not None
        offsets = (self._room * WORD, 2 * self._room * WORD)
        for offset, numbers in zip(offsets, pair, strict=True):
            self._placed.engine.upload(self._rows, offset, np.ascontiguousarray(numbers))
        return self._rows.address + offsets[0], self._rows.address + offsets[1]
