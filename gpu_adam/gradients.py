"""Which gradient belongs to which parameter, and what has changed about it since the last step."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter, methodcaller
from typing import Any

from .arrays import ArrayRef, Occupied, probe_named, reach
from .formats import Format
from .layout import MAX_DIMS, Device, Walk, walk
from .rows import RowBuffer, RowGradient, is_rows, row_gradient
from .state import Placed

Shape = tuple[Format, tuple[int, ...]]
"""What a plan depends on: the gradient's format and strides; of rows their working format and how many there is room for."""


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


def _torch_strides(tensor: Any) -> Any:
    try:
        return tensor.stride(), tensor.is_neg()
    except RuntimeError:  # a sparse tensor has none
        return None


# How the libraries whose arrays come anew every step tell an array's strides and its address, in a fraction of what a probe costs.
_STRIDES: dict[str, Callable[[Any], Any]] = {
    "numpy": attrgetter("strides"),
    "cupy": attrgetter("strides"),
    "torch": _torch_strides,
}
_ADDRESS: dict[str, Callable[[Any], int]] = {
    "numpy": lambda array: array.__array_interface__["data"][0],
    "cupy": attrgetter("data.ptr"),
    "torch": methodcaller("data_ptr"),
}


class _Slot:
    """The last gradient seen for one parameter."""

    __slots__ = ("_kind", "_layout", "_traits", "_weak", "address", "family", "reach", "rows", "shape")

    def __init__(self) -> None:
        self.address = 0
        self.family = ""
        self.reach = (0, 0)
        self.shape: Shape | None = None
        self.rows: RowGradient | None = None
        self._weak: weakref.ref[Any] | None = None
        self._kind: type | None = None
        self._traits: tuple[Any, ...] = ()
        self._layout: tuple[Any, Any] = ((), ())

    def holds(self, array: Any) -> bool:
        """Whether this is the array that was seen last, where it was.

        Only a weak reference is kept: a strong one would keep a gradient alive that the caller has let go, for a whole backward pass.
        Being the same object is not enough: torch swaps a tensor's memory, and its shape and strides, under it, NumPy and CuPy its
        shape. Of libraries not known here nothing is known.
        """
        held = None if self._weak is None else self._weak()
        if held is None or held is not array or self.family == "foreign":
            return False
        if self.family == "numba":
            return True
        if held.shape != self._layout[0]:
            return False
        if self.family == "torch":
            return bool(held.data_ptr() == self.address and held.stride() == self._layout[1])
        return bool(held.strides == self._layout[1])

    def moved_to(self, array: Any) -> int | None:
        """The address of an array that differs from the last one in nothing else; ``None`` if it may differ in more."""
        if type(array) is not self._kind or self._traits != _traits(self.family, array):
            return None
        return _ADDRESS[self.family](array)

    def move(self, array: Any, address: int) -> None:
        """Remember an array that differs from the last one in its address alone."""
        try:
            self._weak = weakref.ref(array)
        except TypeError:
            self._weak = None
        self.address = address

    def take(self, array: Any, ref: ArrayRef) -> None:
        """Remember any array, without keeping it alive."""
        self.family = ref.family
        self.rows = None
        self.shape = (ref.format, ref.strides)
        start, stop = reach(ref)
        self.reach = (start - ref.address, stop - ref.address)
        fast = ref.family in _STRIDES
        self._kind, self._traits = (type(array), _traits(ref.family, array)) if fast else (None, ())
        strides = array.stride() if ref.family == "torch" else array.strides if fast else ()
        self._layout = (array.shape, strides) if fast else ((), ())
        self.move(array, ref.address)

    def take_rows(self, rows: RowGradient, working: Format, address: int) -> None:
        """Remember a gradient of rows, which no later one is taken to be like."""
        self.family, self.rows, self.shape, self.address = "foreign", rows, (working, (rows.capacity,)), address
        self._weak, self._kind = None, None


def _traits(family: str, array: Any) -> tuple[Any, ...]:
    return array.dtype, array.shape, array.device, _STRIDES[family](array)


class Gradients:
    """The gradients of all parameters, checked once and then only where they change.

    Args:
        params: The parameters.
        no_rows: What of the optimizer's settings forbids gradients of rows, to be named in the error; empty if nothing does.
    """

    def __init__(self, params: Sequence[Placed], no_rows: str = "") -> None:
        self._params = params
        self._no_rows = no_rows
        self._buffers: dict[int, RowBuffer] = {}
        self._slots = [_Slot() for _ in params]
        self._on_device: dict[Device, list[Placed]] = {}
        for placed in params:
            self._on_device.setdefault(placed.ref.device, []).append(placed)
        self._occupied = {
            device: Occupied([placed.ref for placed in members]) for device, members in self._on_device.items()
        }

    def operand(self, index: int) -> Operand | None:
        """What a step reads of a parameter's gradient; ``None`` where it has none."""
        slot, placed = self._slots[index], self._params[index]
        if slot.shape is None:
            return None
        format, strides = slot.shape
        if slot.rows is None:
            return Operand(slot.address, placed.size, format, walk(placed.ref.shape, placed.ref.strides, strides))
        sums, rows = self._buffers[index].addresses
        width = self._buffers[index].width
        size = slot.rows.capacity * width
        return Operand(sums, size, format, Walk((size,), (1,), (1,)), width, rows)

    def sum_rows(self, device: Device, stream: int | None) -> None:
        """Sum a device's gradients of rows where a step will read them, in the order of the stream."""
        for index, buffer in self._buffers.items():
            rows = self._slots[index].rows
            if rows is not None and rows.values.device == device:
                buffer.take(rows, stream)

    @property
    def has_rows(self) -> bool:
        """Whether any gradient is of rows."""
        return bool(self._buffers) and any(slot.rows is not None for slot in self._slots)

    @property
    def settled(self) -> bool:
        """Whether arrays that the caller keeps unchanged need not be looked at again; those of libraries not known here do."""
        return all(slot.family not in ("foreign", "torch") for slot in self._slots)

    def address(self, index: int) -> int:
        """The address of a parameter's gradient."""
        return self._slots[index].address

    def itemsize(self, index: int) -> int:
        """Bytes of one element of a parameter's gradient."""
        shape = self._slots[index].shape
        return 0 if shape is None else shape[0].itemsize

    def update(self, arrays: Sequence[Any]) -> tuple[bool, list[int]]:
        """Take up the gradients of a step.

        Args:
            arrays: One array or ``None`` for each parameter.

        Returns:
            Whether a plan made for the earlier gradients no longer fits, and the parameters whose gradient has moved.

        Raises:
            TypeError, ValueError: If a gradient is no array, or of another shape or device than its parameter, or overlaps a parameter's
                memory without being that very array. Nothing has changed then.
        """
        fresh: list[tuple[int, Any, ArrayRef | RowGradient]] = []
        addressed: list[tuple[int, Any, int]] = []
        gone = []
        for index, (slot, array) in enumerate(zip(self._slots, arrays, strict=True)):
            if array is None:
                if slot.shape is not None:
                    gone.append(index)
            elif not slot.holds(array):
                address = slot.moved_to(array)
                if address is not None and self._is_clear(index, address):
                    addressed.append((index, array, address))
                else:
                    fresh.append((index, array, self._check(self._params[index], array)))
        reshaped = bool(gone)
        moved = []
        for index in gone:
            self._slots[index] = _Slot()
        for index, array, address in addressed:
            if address != self._slots[index].address:
                moved.append(index)
            self._slots[index].move(array, address)
        for index, array, ref in fresh:
            slot = self._slots[index]
            if isinstance(ref, RowGradient):
                reshaped |= self._take_rows(index, ref)
                continue
            reshaped |= slot.rows is not None
            if slot.shape != (ref.format, ref.strides):
                reshaped = True
            elif slot.address != ref.address:
                moved.append(index)
            slot.take(array, ref)
        return reshaped, moved

    def check(self, arrays: Sequence[Any]) -> None:
        """Raise what `update` would raise, and change nothing."""
        for placed, array in zip(self._params, arrays, strict=True):
            if array is not None:
                self._check(placed, array)

    def _is_clear(self, index: int, address: int) -> bool:
        """Whether a gradient like the last one fits at an address, judged by its extent; if not, it takes a closer look."""
        shape, (low, high) = self._slots[index].shape, self._slots[index].reach
        usable = shape is not None and address != 0 and address % shape[0].itemsize == 0
        return usable and self._occupied[self._params[index].ref.device].is_clear(address + low, address + high)

    def _take_rows(self, index: int, rows: RowGradient) -> bool:
        """Remember a gradient of rows; whether the plan changes with it."""
        slot, placed = self._slots[index], self._params[index]
        buffer = self._buffers.setdefault(index, RowBuffer(placed))
        before = (slot.rows is not None, slot.shape, slot.address)
        buffer.ensure(rows.capacity)
        slot.take_rows(rows, buffer.format, buffer.addresses[0])
        return before != (True, slot.shape, slot.address)

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
