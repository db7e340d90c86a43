"""Which gradient belongs to which parameter, and what has changed about it since the last step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import ArrayRef, Family, Lifetime, Occupied, probe_named, reach
from ..arrays.recognition import Recognition
from ..device import Device
from ..dtypes import Format
from ..kernels.abi import MAX_DIMS
from ..state.parameter import Placed
from ..strides import Walk, walk
from .sparse import RowBuffer, RowGradient, is_rows, row_gradient

Shape = tuple[Format, tuple[int, ...]]
"""What a plan depends on: the gradient's format and strides; of rows their working format and how many there is room for."""


_SPARE_ROWS = 4
"""How many times the room that rows need is kept, so that a plan is not made anew where their number goes up and down."""


@dataclass(frozen=True)
class Operand:
    """What a step reads of one parameter's gradient.

    Attributes:
        address: Of the first element.
        size: Elements.
        format: Their format.
        walk: The journey through parameter and gradient.
        width: Where it is of some rows only, the elements of a row; else 0.
        indices: The address of these rows' numbers.
    """

    address: int
    size: int
    format: Format
    walk: Walk
    width: int = 0
    indices: int = 0


@dataclass
class _Slot:
    """The last gradient seen for one parameter.

    Attributes:
        shape: What a plan depends on.
        rows: Of a gradient of rows these.
        capacity: How many of these there is room for.
        kept: What holds the elements where the caller's object is no array: the memory of a number.
    """

    shape: Shape | None = None
    rows: RowGradient | None = None
    capacity: int = 0
    kept: Any = None


class Gradients:
    """The gradients of all parameters, checked once and then only where they change.

    Args:
        params: The parameters.
        no_rows: What of the optimizer's settings forbids gradients of rows, to be named in the error; empty if nothing does.

    Attributes:
        is_torn: Whether others were taken up, until the caller says that all that depends on them has followed.
    """

    def __init__(self, params: Sequence[Placed], no_rows: str = "") -> None:
        self._params = params
        self._no_rows = no_rows
        self.is_torn = False
        self._buffers: dict[int, RowBuffer] = {}
        self._slots = [_Slot() for _ in params]
        self._recognition = Recognition(len(params))
        self._addresses: NDArray[np.int64] = np.zeros(len(params), np.int64)
        self._lows, self._highs, self._itemsizes = np.zeros((3, len(params)), np.int64)
        self._on_device: dict[Device, list[Placed]] = {}
        for placed in params:
            self._on_device.setdefault(placed.ref.device, []).append(placed)
        self._occupied = {
            device: Occupied([placed.ref for placed in members]) for device, members in self._on_device.items()
        }
        numbers = {device: number for number, device in enumerate(self._on_device)}
        self._device_numbers = np.array([numbers[placed.ref.device] for placed in params], np.int64)
        self._empty = [placed.index for placed in params if not placed.size]

    def operand(self, index: int) -> Operand | None:
        """What a step reads of a parameter's gradient; ``None`` where it has none."""
        slot, placed = self._slots[index], self._params[index]
        if slot.shape is None:
            return None
        format, strides = slot.shape
        if slot.rows is None:
            journey = walk(placed.ref.shape, placed.ref.strides, strides)
            return Operand(self.address(index), placed.size, format, journey)
        sums, rows = self._buffers[index].addresses
        width = self._buffers[index].width
        size = slot.capacity * width
        return Operand(sums, size, format, Walk((size,), (1,), (1,)), width, rows)

    def sum_rows(self, device: Device, stream: int | None) -> None:
        """Sum a device's gradients of rows where a step will read them, in the order of the stream."""
        for index, buffer in self._buffers.items():
            slot = self._slots[index]
            if slot.rows is not None and slot.rows.values.device == device:
                buffer.take(slot.rows, slot.capacity, stream)

    @property
    def has_rows(self) -> bool:
        """Whether any gradient is of rows."""
        return bool(self._buffers) and any(slot.rows is not None for slot in self._slots)

    def holds(self, arrays: Sequence[Any]) -> bool:
        """Whether this is the list that was taken up last, and stays as it is."""
        return arrays is self._recognition.held

    def address(self, index: int) -> int:
        """The address of a parameter's gradient."""
        return int(self._addresses[index])

    def itemsize(self, index: int) -> int:
        """Bytes of one element of a parameter's gradient."""
        shape = self._slots[index].shape
        return 0 if shape is None else shape[0].itemsize

    def update(self, arrays: Sequence[Any], lifetime: Lifetime = Lifetime.GIVEN) -> tuple[bool, list[int]]:
        """Take up the gradients of a step.

        Args:
            arrays: One array or ``None`` for each parameter.
            lifetime: Of the list and its arrays.

        Returns:
            Whether a plan made for the earlier gradients no longer fits, and the parameters whose gradient has moved.

        Raises:
            TypeError, ValueError: If a gradient is no array, or of another shape or device than its parameter, or overlaps a parameter's
                memory without being that very array. Nothing has changed then.
        """
        if self._recognition.is_unchanged(arrays, lifetime):
            return False, []
        before, addresses = self._addresses, self._addresses.copy()
        unknown = self._recognition.look(arrays, addresses)
        self._place_empty(addresses)
        moved = np.flatnonzero(addresses != before)
        if len(moved):
            clear = self._are_clear(moved, addresses[moved])
            if not clear.all():
                unknown += moved[~clear].tolist()
        if not unknown:
            self.is_torn = True
            self._addresses = addresses
            self._recognition.learn(arrays, {}, lifetime)
            return False, moved.tolist()
        gone = [index for index in unknown if arrays[index] is None and self._slots[index].shape is not None]
        fresh = {
            index: self._check(self._params[index], arrays[index]) for index in unknown if arrays[index] is not None
        }
        for index, found in fresh.items():
            if isinstance(found, RowGradient):
                self._buffers.setdefault(index, RowBuffer(self._params[index])).ensure(found.capacity)
        # Nothing has changed up to here, and nothing is refused from here on.
        self.is_torn = True
        reshaped = bool(gone)
        families: dict[int, Family | None] = dict.fromkeys(gone)
        for index in gone:
            self._slots[index], addresses[index] = _Slot(), 0
        for index, found in fresh.items():
            if isinstance(found, RowGradient):
                reshaped |= self._take_rows(index, found)
                addresses[index], families[index] = self._buffers[index].addresses[0], None
            else:
                reshaped |= self._take(index, arrays[index], found)
                addresses[index] = found.address
                families[index] = None if self._slots[index].kept is not None else found.family
        self._place_empty(addresses)
        self._addresses = addresses
        self._recognition.learn(arrays, families, lifetime)
        return reshaped, [] if reshaped else np.flatnonzero(addresses != before).tolist()

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
        for number, occupied in enumerate(self._occupied.values()):
            mine = self._device_numbers[indices] == number
            clear[mine] &= occupied.are_clear(starts[mine], stops[mine])
        return clear

    def _take(self, index: int, array: Any, ref: ArrayRef) -> bool:
        """Remember a dense gradient; whether the plan changes with it."""
        slot = self._slots[index]
        before = (slot.rows, slot.shape)
        slot.rows, slot.shape = None, (ref.format, _walked(ref))
        slot.kept = None if ref.array is array else ref.array
        start, stop = reach(ref)
        self._lows[index], self._highs[index] = start - ref.address, stop - ref.address
        self._itemsizes[index] = ref.format.itemsize
        return before != (None, slot.shape)

    def _take_rows(self, index: int, rows: RowGradient) -> bool:
        """Remember a gradient of rows; whether the plan changes with it."""
        slot, buffer = self._slots[index], self._buffers[index]
        before = (slot.rows is not None, slot.shape, self.address(index))
        if slot.rows is None or not rows.capacity <= slot.capacity <= _SPARE_ROWS * rows.capacity:
            slot.capacity = rows.capacity
        slot.rows, slot.shape, slot.kept = rows, (buffer.format, (slot.capacity,)), None
        return before != (True, slot.shape, 0 if index in self._empty else buffer.addresses[0])

    def _check(self, placed: Placed, array: Any) -> ArrayRef | RowGradient:
        what = f"the gradient of {placed.label}"
        if is_rows(array):
            if self._no_rows:
                raise ValueError(f"{what} is of rows, which does not go with {self._no_rows}: give a dense one")
            return row_gradient(placed, array, what)
        ref = probe_named(array, what)
        if ref.shape != placed.ref.shape:
            raise ValueError(f"{what} has shape {ref.shape}: must be {placed.ref.shape}")
        if ref.device != placed.ref.device:
            raise ValueError(f"{what} lives on {ref.device}: must be on {placed.ref.device}, where the parameter is")
        dims = len(walk(ref.shape, placed.ref.strides, ref.strides).shape)
        if dims > MAX_DIMS:
            raise ValueError(f"{what} needs {dims} strided dimensions: at most {MAX_DIMS} are supported")
        for index in self._occupied[ref.device].overlapping(ref):
            other = self._on_device[ref.device][index]
            # The gradient of x*x/2 is x itself: each element is read before it is written.
            if other is not placed or not ref.same_elements(placed.ref):
                raise ValueError(f"{what} overlaps the memory of {other.label}, which the step changes while it reads")
        return ref


def _walked(ref: ArrayRef) -> tuple[int, ...]:
    """An array's strides as far as anybody walks by them: a dimension of one element, or of none, may have any."""
    if 0 in ref.shape:
        return (0,) * len(ref.shape)
    return tuple(0 if size == 1 else stride for size, stride in zip(ref.shape, ref.strides, strict=True))
