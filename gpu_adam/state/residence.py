"""Which arrays may be parameters, and whether they still are where they were."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from ..arrays import ArrayRef, Family, Lifetime, counts_versions, plainly, seen
from .apart import check_apart, param_ref
from .buckets import state_strides
from .parameter import Placed

_MANY = 256
"""Parameters from which on not all are looked at for each that is added."""


class Residence:
    """What the parameters were when they were last looked at, which they are when this is made.

    Nearly all of it can change under a name: torch swaps a tensor's memory and format (``p.data = …``, ``module.half()``), cuts or frees
    what holds it; NumPy and CuPy set shape, strides and dtype in place, and resize. Looked at before each step, so in bulk.
    """

    def __init__(self, params: Sequence[Placed]) -> None:
        self._params = params
        self._fresh: list[Placed] = []
        # Until some are added: what was told before may have moved them.
        self._is_asked = True
        members: dict[Family, list[Placed]] = {}
        for placed in params:
            members.setdefault(placed.ref.family, []).append(placed)
        self._libraries = [_Library(own) for own in members.values()]
        self._masters = [placed for placed in members.get("torch", []) if placed.master]
        self._writes = _Writes([placed.ref.array for placed in self._masters])

    def grow(self, params: Sequence[Placed], fresh: Sequence[Placed]) -> None:
        """Take parameters that were just added for what they are: with those of before they are ``params`` now."""
        self._params, self._is_asked = params, False
        self._fresh.extend(fresh)

    @property
    def has_grown(self) -> bool:
        """Whether there are parameters that were added since: those of before are looked at in bulk, these one by one."""
        return bool(self._fresh)

    @property
    def may_grow(self) -> bool:
        """Whether so few of many parameters have been added since all were looked at that they need not be for one more.

        What is done to one meanwhile is found at the next look, in a step at the latest.
        """
        known = len(self._params) - len(self._fresh)
        return not self._is_asked and known >= _MANY and len(self._fresh) < known

    def moved(self) -> list[tuple[Placed, ArrayRef]]:
        """The parameters that are elsewhere, and where they are; mostly none.

        Raises:
            TypeError, ValueError: If one has become another array than the optimizer was made for.
        """
        self._is_asked = True
        changed = [library for library in self._libraries if not library.is_unchanged()]
        moved = []
        for placed in (*(placed for library in changed for placed in library.params), *self._fresh):
            ref, old = param_ref(placed.ref.array, placed.label), placed.ref
            if (ref.shape, ref.format, ref.device) != (old.shape, old.format, old.device):
                raise ValueError(
                    f"{placed.label} was {old.format} {old.shape} on {old.device} and is now {ref.format} {ref.shape} "
                    f"on {ref.device}: make a new optimizer and load this one's state_dict()"
                )
            if state_strides(ref) != state_strides(old):
                raise ValueError(f"{placed.label} now lies in memory in another order: make a new optimizer")
            if not ref.same_elements(old):
                moved.append((placed, ref))
        fresh = {placed.index: ref for placed, ref in moved}
        if moved:
            # They are found again, unless they are taken up, which ends with another residence.
            check_apart([(placed.label, fresh.get(placed.index, placed.ref)) for placed in self._params])
        else:
            for library in changed:
                library.look_again()
        return moved

    def written(self) -> list[Placed]:
        """The 16-bit torch parameters that were written to, as by their module's ``load_state_dict``, until `forget_writes`."""
        return [self._masters[k] for k in self._writes.news()]

    def forget_writes(self) -> None:
        """Take the parameters for what they are now."""
        self._writes.remember()

    def announce(self, tensors: Sequence[Any]) -> None:
        """Tell torch that a step writes to these tensors, so that autograd refuses to use their values of before."""
        if tensors:
            import torch

            torch.autograd.graph.increment_version(tensors)
            self._writes.forget_own()


class _Library:
    """The parameters of one library."""

    def __init__(self, params: Sequence[Placed]) -> None:
        self.params = params
        self._arrays = [placed.ref.array for placed in params]
        self._family = params[0].ref.family
        self.look_again()

    def look_again(self) -> None:
        """Take the arrays for what they are now."""
        own = all(placed.ref.address == placed.address("param") for placed in self.params if placed.size)
        self._seen = seen(self._family, self._arrays, Lifetime.OWN if own else Lifetime.HELD)
        self._addresses = None if self._seen is None else self._seen.addresses

    def is_unchanged(self) -> bool:
        """Whether nothing about any of them has changed; ``False`` where nobody can tell."""
        return self._seen is not None and self._seen.look(self._arrays) is self._addresses


class _Writes:
    """Which torch tensors were written to, or given other memory.

    A tensor counts what is written to it, but not that its ``.data`` was assigned, after which other values may lie at its old address.
    What holds its elements is another object then. Of that object a weak handle is kept: it keeps no memory alive, and keeps the object's
    address from being given out again.
    """

    def __init__(self, tensors: Sequence[Any]) -> None:
        self._tensors = tensors
        # An inference tensor counts no versions.
        self._counting = [k for k, tensor in enumerate(tensors) if counts_versions(tensor)]
        self._counters = [tensors[k] for k in self._counting]
        self.remember()

    def remember(self) -> None:
        """Take them for what they are now."""
        self._versions = self._read_versions()
        self._handles = []
        if self._tensors:
            from torch.multiprocessing.reductions import StorageWeakRef

            self._handles = [StorageWeakRef(tensor.untyped_storage()) for tensor in self._tensors]
        self._holders = self._read_holders()

    def news(self) -> list[int]:
        """The numbers of those that differ from what is remembered."""
        versions, holders = self._read_versions(), self._read_holders()
        if versions == self._versions and holders == self._holders:
            return []
        written = {k for k, old, new in zip(self._counting, self._versions, versions, strict=True) if old != new}
        written |= {k for k, (old, new) in enumerate(zip(self._holders, holders, strict=True)) if old != new}
        return sorted(written)

    def forget_own(self) -> None:
        """Take the last writes for our own."""
        self._versions = self._read_versions()

    def _read_versions(self) -> list[int]:
        if not self._counters:
            return []
        with plainly("torch"):
            return list(map(_version_of, self._counters))

    def _read_holders(self) -> list[int]:
        if not self._tensors:
            return []
        import torch

        with plainly("torch"):
            return list(map(_holder_of, map(torch.Tensor.untyped_storage, self._tensors)))


_version_of, _holder_of = attrgetter("_version"), attrgetter("_cdata")
