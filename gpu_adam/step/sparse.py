"""Gradients of some rows of a matrix, such as those of the embeddings that a batch looked up.

Rows may come in any order and more than once. They are sorted by the arrays' own library, stably, and summed by our own kernel, in the
order in which they were given, into a buffer that the step then reads like any gradient; its work grows with the rows that were
given and not with the matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..arrays import ArrayRef, library_of, name_of, probe_named
from ..dtypes import Format
from ..engines import Memory, SumArguments
from ..kernels.abi import WORD
from ..state.parameter import Placed
from ..strides import row_major


@dataclass(frozen=True)
class SparseGradient:
    """The gradient of some rows of a parameter.

    Attributes:
        values: The rows' gradients, one after the other.
        count: How many there are.
        ranked: The rows' numbers in their order, int64, in memory that the engine reads.
        order: For each of these its place among the values; equal numbers are in the order in which they were given.
    """

    values: ArrayRef
    count: int
    ranked: Any = field(repr=False, compare=False)
    order: Any = field(repr=False, compare=False)

    @property
    def capacity(self) -> int:
        """The power of two that a buffer must have room for: launches and tables change with it only."""
        return 1 << max(self.count - 1, 0).bit_length()


def is_sparse(gradient: Any) -> bool:
    """Whether a gradient is given as ``(row numbers, row values)``, or is a sparse torch tensor, which says the same."""
    if isinstance(gradient, tuple):
        return len(gradient) == 2
    return getattr(gradient, "is_sparse", False) is True


def sparse_gradient(placed: Placed, gradient: Any, what: str) -> SparseGradient:
    """A gradient of rows, checked against its parameter.

    Raises:
        TypeError: If the rows' numbers are no integers, or the values no floats.
        ValueError: If shapes, devices or, on a CPU, the rows' numbers do not fit.
    """
    ref = placed.ref
    if len(ref.shape) < 2 or not _lies_in_rows(ref):
        raise ValueError(f"{what} is of rows: the parameter must have at least 2 dimensions and lie row after row")
    if isinstance(gradient, tuple):
        rows, values = gradient
    else:
        if gradient.sparse_dim() != 1:
            raise ValueError(f"{what} is sparse in {gradient.sparse_dim()} dimensions: must be in the first one")
        rows, values = gradient._indices()[0], gradient._values()
    probe_named(values, f"the values of {what}")  # as they are given: what they mean is lost in a contiguous copy
    found = probe_named(library_of(values).contiguous(values), f"the values of {what}")
    if not _lies_in_rows(found):
        raise ValueError(f"the values of {what} have strides {found.strides}: must lie row after row")
    if found.device != ref.device:
        raise ValueError(
            f"the values of {what} live on {found.device}: must be on {ref.device}, where the parameter is"
        )
    shape, name = tuple(getattr(rows, "shape", ())), str(getattr(rows, "dtype", type(rows).__name__))
    if name.removeprefix("torch.") not in ("int32", "int64"):
        raise TypeError(f"the rows of {what} are {name}: must be an array of int64 or int32")
    if isinstance(rows, np.ndarray) and type(rows) is not np.ndarray:
        raise TypeError(f"the rows of {what} are a {name_of(rows)}: must be a numpy.ndarray")
    if len(shape) != 1 or found.shape != (*shape, *ref.shape[1:]):
        raise ValueError(f"{what} has rows {shape} and values {found.shape}: must be (n,) and (n, *{ref.shape[1:]})")
    where = str(getattr(rows, "device", "cpu"))
    if ref.device.kind == "cpu" and where.startswith("cuda"):
        raise ValueError(f"the rows of {what} live on {where}: must be on {ref.device}, where the parameter is")
    ranked, order = library_of(rows).ranked(rows, ref.device)
    if ref.device.kind == "cpu" and shape[0] and (ranked[0] < 0 or ranked[-1] >= ref.shape[0]):
        raise ValueError(f"{what} has rows from {ranked[0]} to {ranked[-1]}: must be in [0, {ref.shape[0]})")
    return SparseGradient(found, shape[0], ranked, order)


def _lies_in_rows(ref: ArrayRef) -> bool:
    """Whether an array is C-contiguous, whatever the strides of dimensions that have none or one."""
    wanted = zip(ref.shape, ref.strides, row_major(ref.shape), strict=True)
    return 0 in ref.shape or all(size == 1 or stride == dense for size, stride, dense in wanted)


class SparseBuffer:
    """The room where the rows of one parameter's gradient are summed; it grows and does not move otherwise."""

    def __init__(self, placed: Placed) -> None:
        self._placed = placed
        self._room = 0
        self._sums: Memory | None = None
        self._rows: Memory | None = None
        self._held: SparseGradient | None = None

    @property
    def format(self) -> Format:
        """The format of the sums, the working one."""
        return self._placed.ref.format.working

    @property
    def width(self) -> int:
        """Elements of a row."""
        ref = self._placed.ref
        return self._placed.size // ref.shape[0] if ref.shape[0] else 0

    def ensure(self, capacity: int) -> None:
        """Make room for so many rows."""
        if capacity > self._room:
            engine, device = self._placed.engine, self._placed.ref.device
            self._sums = engine.allocate(device, capacity * self.width * self.format.itemsize)
            self._rows = engine.allocate(device, 3 * capacity * WORD)
            self._room = capacity

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
            width=self.width,
            count=gradient.count,
            capacity=capacity,
            order=order,
            ranked=ranked,
            limit=self._placed.ref.shape[0],
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
