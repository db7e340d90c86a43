"""Which arrays may be parameters: no two share an element."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, is_
from typing import Any

from ..arrays import ArrayRef, Occupied, probe_named
from ..device import Device
from ..strides import overlaps_itself
from .parameter import Placed

_ref_of = attrgetter("ref")


def param_ref(array: Any, label: str) -> ArrayRef:
    """The description of an array that is to be updated.

    Args:
        array: Of any library.
        label: What an error calls it.

    Raises:
        TypeError: If it is no array of a supported format.
        ValueError: If it is read-only or its elements share memory.
    """
    ref = probe_named(array, label, writable=True)
    if ref.library.holds_gradients and not (array.is_leaf or array.retains_grad):
        raise ValueError(
            f"{label} is not a leaf of autograd's graph, so backward() leaves it without a gradient: pass the tensor that "
            "it was computed from, or its detach()"
        )
    if overlaps_itself(ref.shape, ref.strides):
        raise ValueError(
            f"{label} has shape {ref.shape} and strides {ref.strides}, so that elements share memory: copy it"
        )
    return ref


def check_apart(refs: Sequence[tuple[str, ArrayRef]]) -> None:
    """Nothing, if no two of the arrays share an element.

    Args:
        refs: What to call each array, and its description.

    Raises:
        ValueError: If two do.
    """
    devices: dict[Device, list[tuple[str, ArrayRef]]] = {}
    for label, ref in refs:
        devices.setdefault(ref.device, []).append((label, ref))
    for members in devices.values():
        conflict = Occupied([ref for _, ref in members]).conflict()
        if conflict is not None:
            raise _conflict(*(members[k] for k in sorted(conflict)))


def _conflict(one: tuple[str, ArrayRef], other: tuple[str, ArrayRef]) -> ValueError:
    (first, a), (second, b) = one, other
    what = "are the same array" if a.same_elements(b) else "overlap in memory"
    return ValueError(f"{first} and {second} {what}: each element may be updated once a step")


class Apart:
    """The memory of an optimizer's parameters, remembered, so that one more is not compared with each of them."""

    def __init__(self) -> None:
        self._refs: list[ArrayRef] = []
        self._members: dict[Device, list[int]] = {}
        self._occupied: dict[Device, Occupied] = {}
        self._is_torn = False

    def check(self, params: Sequence[Placed], fresh: Sequence[tuple[str, ArrayRef]], *, grown: bool) -> None:
        """Nothing, if new arrays share no element with the parameters or with each other.

        Args:
            params: The parameters, which do not share any.
            fresh: What to call each new array, and its description.
            grown: Whether nothing has become of the parameters since the last call, but that some were added.

        Raises:
            ValueError: If they do.
        """
        check_apart(fresh)
        if self._is_torn:
            self._begin_anew()
        if grown:
            self._extend([one.ref for one in params[len(self._refs) :]])
        else:
            self._follow(list(map(_ref_of, params)))
        for label, ref in fresh:
            occupied = self._occupied.get(ref.device)
            for index in occupied.overlapping(ref) if occupied else ():
                other = params[self._members[ref.device][index]]
                raise _conflict((other.label, other.ref), (label, ref))

    def _follow(self, refs: list[ArrayRef]) -> None:
        # Mostly some have been added; what has moved, or was packed, has another description.
        if len(refs) < len(self._refs) or not all(map(is_, refs, self._refs)):
            self._begin_anew()
        self._extend(refs[len(self._refs) :])

    def _begin_anew(self) -> None:
        self._is_torn = True
        self._refs, self._members, self._occupied = [], {}, {}

    def _extend(self, refs: list[ArrayRef]) -> None:
        # Until all is there: an exception may come in between.
        self._is_torn = True
        added: dict[Device, list[ArrayRef]] = {}
        for index, ref in enumerate(refs, start=len(self._refs)):
            added.setdefault(ref.device, []).append(ref)
            self._members.setdefault(ref.device, []).append(index)
        self._refs.extend(refs)
        for device, members in added.items():
            self._occupied.setdefault(device, Occupied([])).extend(members)
        self._is_torn = False
