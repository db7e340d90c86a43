"""Which gradient belongs to which parameter, and what has changed about it since the last step."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from .arrays import ArrayRef, Occupied, probe
from .formats import Format
from .layout import Device
from .state import Placed

Shape = tuple[Format, tuple[int, ...]]
"""What a plan depends on: the gradient's format and strides."""


class _Slot:
    """The last gradient seen for one parameter."""

    __slots__ = ("address", "shape", "torch", "weak")

    def __init__(self) -> None:
        self.weak: weakref.ref[Any] | None = None
        self.torch = False
        self.address = 0
        self.shape: Shape | None = None

    def holds(self, array: Any) -> bool:
        """Whether this is the array that was seen last, where it was.

        Only a weak reference is kept: a strong one would keep a gradient alive that the caller has let go, for a whole backward pass.
        Identity suffices, but for torch, where a tensor's memory can be swapped under it.
        """
        weak = self.weak
        return weak is not None and weak() is array and (not self.torch or array.data_ptr() == self.address)

    def take(self, array: Any, ref: ArrayRef) -> None:
        try:
            self.weak = weakref.ref(array)
        except TypeError:
            self.weak = None
        self.torch = ref.family == "torch"
        self.address = ref.address
        self.shape = (ref.format, ref.strides)


class Gradients:
    """The gradients of all parameters, checked once and then only where they change."""

    def __init__(self, params: Sequence[Placed]) -> None:
        self._params = params
        self._slots = [_Slot() for _ in params]
        self._on_device: dict[Device, list[Placed]] = {}
        for placed in params:
            self._on_device.setdefault(placed.ref.device, []).append(placed)
        self._occupied = {
            device: Occupied([placed.ref for placed in members]) for device, members in self._on_device.items()
        }

    @property
    def shapes(self) -> tuple[Shape | None, ...]:
        """For each parameter its gradient's format and strides, or ``None``."""
        return tuple(slot.shape for slot in self._slots)

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
        fresh: list[tuple[int, Any, ArrayRef]] = []
        gone = []
        for index, (slot, array) in enumerate(zip(self._slots, arrays, strict=True)):
            if array is None:
                if slot.shape is not None:
                    gone.append(index)
            elif not slot.holds(array):
                fresh.append((index, array, self._check(self._params[index], array)))
        reshaped = bool(gone)
        moved = []
        for index in gone:
            self._slots[index] = _Slot()
        for index, array, ref in fresh:
            slot = self._slots[index]
            before = slot.shape, slot.address
            slot.take(array, ref)
            if slot.shape != before[0]:
                reshaped = True
            elif slot.address != before[1]:
                moved.append(index)
        return reshaped, moved

    def check(self, arrays: Sequence[Any]) -> None:
        """Raise what `update` would raise, and change nothing."""
        for placed, array in zip(self._params, arrays, strict=True):
            if array is not None:
                self._check(placed, array)

    def _check(self, placed: Placed, array: Any) -> ArrayRef:
        what = f"the gradient of {placed.label}"
        try:
            ref = probe(array)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{what} {error}") from None
        if ref.shape != placed.ref.shape:
            raise ValueError(f"{what} has shape {ref.shape}: must be {placed.ref.shape}")
        if ref.device != placed.ref.device:
            raise ValueError(f"{what} lives on {ref.device}: must be on {placed.ref.device}, where the parameter is")
        self._check_overlap(what, placed, ref)
        return ref

    def _check_overlap(self, what: str, own: Placed, ref: ArrayRef) -> None:
        occupied = self._occupied.get(ref.device)
        for index in occupied.overlapping(ref) if occupied is not None else ():
            other = self._on_device[ref.device][index]
            # The gradient of x*x/2 is x itself: each element is read before it is written.
            itself = other is own and (ref.address, ref.strides, ref.format) == (
                own.ref.address,
                own.ref.strides,
                own.ref.format,
            )
            if not itself:
                raise ValueError(f"{what} overlaps the memory of {other.label}, which the step changes while it reads")
