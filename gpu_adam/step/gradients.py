"""Which gradient belongs to which parameter, and what has changed about it since the last step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arrays import ArrayRef, Library, Lifetime, Occupied, probe_named, reach
from ..arrays.recognition import Recognition
from ..device import Device
from ..dtypes import Format
from ..kernels.abi import MAX_DIMS
from ..plan.updates import Operand, SparseOperand
from ..state.parameter import Placed
from ..strides import Walk, walk
from .sparse import SparseBuffer, SparseGradient, is_sparse, sparse_gradient

Shape = tuple[Format, tuple[int, ...]]
"""What a plan depends on: the gradient's format and strides; of a sparse one its rows' format, how many there is room for, their width."""


_SPARE_ROWS = 4
"""How many times the room that rows need is kept, so that a plan is not made anew where their number goes up and down."""


@dataclass
class _Known:
    """The last gradient seen for one parameter.

    Attributes:
        shape: What a plan depends on; ``None`` where none was seen yet.
        walk: The journey through parameter and gradient, if it is dense.
        sparse: The gradient, if it is sparse, while it is there.
        capacity: How many of its rows there is room for.
        kept: What holds the elements where the caller's object is no array, while it is there: the memory of a number.
    """

    shape: Shape | None = None
    walk: Walk | None = None
    sparse: SparseGradient | None = None
    capacity: int = 0
    kept: Any = None


@dataclass(frozen=True)
class _Dense:
    """A dense gradient that was checked: where it is, and the journey through parameter and gradient."""

    ref: ArrayRef
    walk: Walk


class Change(NamedTuple):
    """What the gradients of a step differ in from those of the last one.

    Attributes:
        reshaped: Whether a plan made for the earlier ones no longer fits, whichever of them are there.
        moved: The parameters whose gradient lies elsewhere.
        absent: Whether others are there.
    """

    reshaped: bool = False
    moved: Sequence[int] = ()
    absent: bool = False

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return self.reshaped or self.absent or len(self.moved) > 0


class Gradients:
    """The gradients of all parameters, checked once and then only where they change.

    Args:
        params: The parameters.
        no_sparse: What of the optimizer's settings forbids sparse gradients, to be named in the error; empty if nothing does.

    Attributes:
        addresses: Where the gradients lie, of each parameter; where there is none now, where the last one lay, and 0 if none was seen yet.
        present: For each parameter whether it has a gradient; another array where others have one.
        is_torn: Whether others were taken up, until the caller says that all that depends on them has followed.
    """

    def __init__(self, params: Sequence[Placed], no_sparse: str = "") -> None:
        self._params = params
        self._no_sparse = no_sparse
        self.is_torn = False
        self._buffers: dict[int, SparseBuffer] = {}
        self._known = [_Known() for _ in params]
        self._recognition = Recognition(len(params))
        self.addresses: NDArray[np.int64] = np.zeros(len(params), np.int64)
        self.present: NDArray[np.bool_] = np.zeros(len(params), np.bool_)
        self._lows, self._highs, self._itemsizes = np.zeros((3, len(params)), np.int64)
        self._on_device: dict[Device, list[Placed]] = {}
        for placed in params:
            self._on_device.setdefault(placed.ref.device, []).append(placed)
        self._occupied = {
            device: Occupied([placed.ref for placed in members]) for device, members in self._on_device.items()
        }
        numbers = {device: index for index, device in enumerate(self._on_device)}
        self._device_numbers = np.array([numbers[placed.ref.device] for placed in params], np.int64)
        self._empty = [placed.index for placed in params if not placed.size]

    @property
    def known(self) -> NDArray[np.bool_]:
        """For each parameter whether it has, or had, a gradient."""
        return np.array([known.shape is not None for known in self._known], np.bool_)

    def operand(self, index: int) -> Operand:
        """What a step reads of a parameter's gradient, which it has, or had."""
        known = self._known[index]
        assert known.shape is not None
        format = known.shape[0]
        if known.walk is not None:
            return Operand(int(self.addresses[index]), self._params[index].size, format, known.walk)
        buffer = self._buffers[index]
        sums, rows = buffer.addresses
        capacity, width = known.shape[1]
        sparse = SparseOperand(format, width, capacity, rows)
        size = capacity * width
        return Operand(sums, size, buffer.format, Walk((size,), (1,), (1,)), sparse)

    def sum_sparse(self, index: int, stream: int | None) -> None:
        """Sum a parameter's sparse gradient where a step will read it, in the order of the stream."""
        known = self._known[index]
        assert known.sparse is not None
        self._buffers[index].take(known.sparse, known.capacity, stream)

    @property
    def has_sparse(self) -> bool:
        """Whether any gradient is sparse."""
        return bool(self._buffers) and any(known.sparse is not None for known in self._known)

    def holds(self, arrays: Sequence[Any]) -> bool:
        """Whether this is the list that was taken up last, and stays as it is."""
        return arrays is self._recognition.held

    def update(self, arrays: Sequence[Any], lifetime: Lifetime = Lifetime.GIVEN) -> Change:
        """Take up the gradients of a step.

        Args:
            arrays: One array or ``None`` for each parameter.
            lifetime: Of the list and its arrays.

        Returns:
            What has changed.

        Raises:
            TypeError, ValueError: If a gradient is no array, or of another shape or device than its parameter, or overlaps a parameter's
                memory without being that very array. Nothing has changed then.
        """
        if self._recognition.is_unchanged(arrays, lifetime):
            return Change()
        before, addresses = self.addresses, self.addresses.copy()
        unknown, present = self._recognition.look(arrays, addresses)
        self._place_empty(addresses)
        moved = (addresses != before).nonzero()[0]
        if len(moved):
            clear = self._are_clear(moved, addresses[moved])
            if not clear.all():
                unknown += moved[~clear].tolist()
        fresh = {index: self._check(self._params[index], arrays[index]) for index in unknown}
        for index, found in fresh.items():
            if isinstance(found, SparseGradient):
                self._buffers.setdefault(index, SparseBuffer(self._params[index])).ensure(found.capacity, found.width)
        # Nothing has changed up to here, and nothing is refused from here on.
        self.is_torn = True
        is_other_set = present is not self.present and bool((present != self.present).any())
        if is_other_set:
            for index in np.flatnonzero(self.present & ~present).tolist():
                self._known[index].sparse = self._known[index].kept = None
            self.present = present
        reshaped = False
        libraries: dict[int, Library | None] = {}
        for index, found in fresh.items():
            if isinstance(found, SparseGradient):
                reshaped |= self._take_sparse(index, found)
                addresses[index], libraries[index] = self._buffers[index].addresses[0], None
            else:
                reshaped |= self._take(index, arrays[index], found)
                addresses[index] = found.ref.address
                libraries[index] = None if self._known[index].kept is not None else found.ref.library
        if fresh:
            self._place_empty(addresses)
            moved = (addresses != before).nonzero()[0]
        self.addresses = addresses
        self._recognition.learn(arrays, present, libraries, lifetime)
        return Change(reshaped, moved.tolist(), is_other_set)

    def check(self, arrays: Sequence[Any]) -> None:
        """Raise what `update` would raise, and for what cannot be bound; change nothing."""
        for placed, array in zip(self._params, arrays, strict=True):
            if isinstance(array, np.generic):
                raise TypeError(f"the gradient of {placed.label} is a number, which never changes: bind an array")
            if array is not None:
                self._check(placed, array)

    def _place_empty(self, addresses: NDArray[np.int64]) -> None:
        """Where a gradient without elements lies is nothing that a plan could go by."""
        if self._empty:
            addresses[self._empty] = 0

    def _are_clear(self, indices: NDArray[np.int64], addresses: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether gradients like the last ones fit at these addresses, judged by their extents; if not, it takes a closer look."""
        clear: NDArray[np.bool_] = (addresses != 0) & (addresses % self._itemsizes[indices] == 0)
        starts, stops = addresses + self._lows[indices], addresses + self._highs[indices]
        if len(self._occupied) == 1:
            (occupied,) = self._occupied.values()
            return clear & occupied.are_clear(starts, stops)
        for index, occupied in enumerate(self._occupied.values()):
            mine = self._device_numbers[indices] == index
            clear[mine] &= occupied.are_clear(starts[mine], stops[mine])
        return clear

    def _take(self, index: int, array: Any, dense: _Dense) -> bool:
        """Remember a dense gradient; whether the plan changes with it."""
        known, ref = self._known[index], dense.ref
        before = (known.walk is None, known.shape)
        known.sparse, known.shape, known.walk = None, (ref.format, _walked(ref)), dense.walk
        known.kept = None if ref.array is array else ref.array
        start, stop = reach(ref)
        self._lows[index], self._highs[index] = start - ref.address, stop - ref.address
        self._itemsizes[index] = ref.format.itemsize
        return before != (False, known.shape)

    def _take_sparse(self, index: int, sparse: SparseGradient) -> bool:
        """Remember a sparse gradient; whether the plan changes with it."""
        known, buffer = self._known[index], self._buffers[index]
        before = (known.walk is None, known.shape, int(self.addresses[index]))
        kept = known.walk is None and known.shape is not None and known.shape[1][1] == sparse.width
        if not kept or not sparse.capacity <= known.capacity <= _SPARE_ROWS * sparse.capacity:
            known.capacity = sparse.capacity
        known.shape = (sparse.values.format, (known.capacity, sparse.width))
        known.sparse, known.walk, known.kept = sparse, None, None
        return before != (True, known.shape, 0 if index in self._empty else buffer.addresses[0])

    def _check(self, placed: Placed, array: Any) -> _Dense | SparseGradient:
        what = f"the gradient of {placed.label}"
        if is_sparse(array):
            if self._no_sparse:
                raise ValueError(f"{what} is of rows, which does not go with {self._no_sparse}: give a dense one")
            return sparse_gradient(placed, array, what)
        ref = probe_named(array, what)
        if ref.shape != placed.ref.shape:
            raise ValueError(f"{what} has shape {ref.shape}: must be {placed.ref.shape}")
        if ref.device != placed.ref.device:
            raise ValueError(f"{what} lives on {ref.device}: must be on {placed.ref.device}, where the parameter is")
        journey = walk(ref.shape, placed.ref.strides, ref.strides)
        dims = len(journey.shape)
        if dims > MAX_DIMS:
            raise ValueError(f"{what} needs {dims} strided dimensions: at most {MAX_DIMS} are supported")
        for index in self._occupied[ref.device].overlapping(ref):
            other = self._on_device[ref.device][index]
            # The gradient of x*x/2 is x itself: each element is read before it is written.
            if other is not placed or not ref.same_elements(placed.ref):
                raise ValueError(f"{what} overlaps the memory of {other.label}, which the step changes while it reads")
        return _Dense(ref, journey)


def _walked(ref: ArrayRef) -> tuple[int, ...]:
    """An array's strides as far as anybody walks by them: a dimension of one element, or of none, may have any."""
    if 0 in ref.shape:
        return (0,) * len(ref.shape)
    return tuple(0 if size == 1 else stride for size, stride in zip(ref.shape, ref.strides, strict=True))
