"""Which arrays may be parameters, and whether they still are where they were."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, is_
from typing import Any

from .arrays import ArrayRef, Occupied, probe_named
from .layout import Device, overlaps_itself
from .state import Placed, state_strides

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

    def check(self, params: Sequence[Placed], fresh: Sequence[tuple[str, ArrayRef]]) -> None:
        """Nothing, if new arrays share no element with the parameters or with each other.

        Args:
            params: The parameters, which do not share any.
            fresh: What to call each new array, and its description.

        Raises:
            ValueError: If they do.
        """
        check_apart(fresh)
        self._follow(list(map(_ref_of, params)))
        for label, ref in fresh:
            occupied = self._occupied.get(ref.device)
            for number in occupied.overlapping(ref) if occupied else ():
                other = params[self._members[ref.device][number]]
                raise _conflict((other.label, other.ref), (label, ref))

    def _follow(self, refs: list[ArrayRef]) -> None:
        # Mostly some have been added; what has moved, or was packed, has another description.
        begin = len(self._refs)
        if len(refs) < begin or not all(map(is_, refs, self._refs)):
            begin, self._members, self._occupied = 0, {}, {}
        self._refs = refs
        added: dict[Device, list[ArrayRef]] = {}
        for index, ref in enumerate(refs[begin:], start=begin):
            added.setdefault(ref.device, []).append(ref)
            self._members.setdefault(ref.device, []).append(index)
        for device, members in added.items():
            self._occupied.setdefault(device, Occupied([])).extend(members)


class Residence:
    """Where the parameters were last seen.

    Arrays of NumPy, CuPy and Numba stay where they are as long as they live. Under a torch tensor the memory can be swapped
    (``p.data = …``), and of arrays known by a protocol only nothing is known at all. Looked at before each step, so in bulk.
    """

    def __init__(self, params: Sequence[Placed]) -> None:
        self._params = params
        self._torch = [placed for placed in params if placed.ref.family == "torch"]
        self._foreign = [placed for placed in params if placed.ref.family == "foreign"]
        self._addresses = [placed.ref.array.data_ptr for placed in self._torch]
        self._strides = [placed.ref.array.stride for placed in self._torch]
        self._last = ([placed.ref.address for placed in self._torch], [placed.ref.strides for placed in self._torch])
        homes = [(one, one.state.address("grad", one.segment.start)) for one in self._torch if one.segment.size]
        self._homes = [address for _, address in homes]
        self._bound = [
            one.ref.array.grad.data_ptr for one, address in homes if address and one.ref.array.grad is not None
        ]
        # An inference tensor counts no versions.
        self._masters = [one for one in self._torch if one.master and not one.ref.array.is_inference()]
        self._versions = self._read_versions()

    def moved(self) -> list[tuple[Placed, ArrayRef]]:
        """The parameters that may be elsewhere, and where they are; mostly none.

        Raises:
            ValueError: If one has become another array than the optimizer was made for.
        """
        foreign = [(placed, param_ref(placed.ref.array, placed.label)) for placed in self._foreign]
        # The strides as well: a transposed view of the same memory has the same address.
        now = ([address() for address in self._addresses], [strides() for strides in self._strides])
        if now == self._last and all(ref.same_elements(placed.ref) for placed, ref in foreign):
            return []
        moved = [*foreign, *((placed, param_ref(placed.ref.array, placed.label)) for placed in self._torch)]
        for placed, ref in moved:
            old = placed.ref
            if (ref.shape, ref.format, ref.device) != (old.shape, old.format, old.device):
                raise ValueError(
                    f"{placed.label} was {old.format} {old.shape} on {old.device} and is now {ref.format} {ref.shape} "
                    f"on {ref.device}: make a new optimizer and load this one's state_dict()"
                )
            if state_strides(ref) != state_strides(old):
                raise ValueError(f"{placed.label} now lies in memory in another order: make a new optimizer")
        fresh = {placed.index: ref for placed, ref in moved}
        check_apart([(placed.label, fresh.get(placed.index, placed.ref)) for placed in self._params])
        return moved

    def gradients_are_home(self) -> bool:
        """Whether the torch tensors' gradients are where their buckets put them."""
        return [address() for address in self._bound] == self._homes

    def written(self) -> list[Placed]:
        """The 16-bit torch parameters that were written to since this was last asked, as by their module's ``load_state_dict``."""
        versions = self._read_versions()
        if versions == self._versions:
            return []
        pairs = zip(self._masters, versions, self._versions, strict=True)
        written = [placed for placed, now, before in pairs if now != before]
        self._versions = versions
        return written

    def stepped(self, tensors: Sequence[Any]) -> None:
        """Tell torch that a step has written to these tensors, so that autograd refuses to use their values of before."""
        if tensors:
            import torch

            torch.autograd.graph.increment_version(tensors)
            self._versions = self._read_versions()

    def _read_versions(self) -> list[int]:
        return [placed.ref.array._version for placed in self._masters]
