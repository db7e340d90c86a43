"""Which arrays may be parameters, and whether they still are where they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .arrays import ArrayRef, Occupied, counts_versions, probe_named
from .layout import Device, overlaps_itself
from .state import Placed, state_strides


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
    if ref.family == "torch" and not (array.is_leaf or array.retains_grad):
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
            (first, a), (second, b) = (members[k] for k in sorted(conflict))
            what = "are the same array" if a.same_elements(b) else "overlap in memory"
            raise ValueError(f"{first} and {second} {what}: each element may be updated once a step")


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
        homes = [(one, one.address("grad")) for one in self._torch if one.size and one.has("grad")]
        self._homes = [address for _, address in homes]
        self._bound = [
            one.ref.array.grad.data_ptr for one, address in homes if address and one.ref.array.grad is not None
        ]
        self._masters = [one for one in self._torch if one.master and counts_versions(one.ref.array)]
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
