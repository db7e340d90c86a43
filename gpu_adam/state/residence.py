"""Which arrays may be parameters, and whether they still are where they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arrays import ArrayRef, Library, Lifetime, Writes
from ..errors import ParameterChangedError
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
        members: dict[Library, list[Placed]] = {}
        for placed in params:
            members.setdefault(placed.ref.library, []).append(placed)
        self._parts = [_Part(library, own) for library, own in members.items()]
        self._masters = [placed for placed in params if placed.master and placed.ref.library.tells_writes]
        self._writes = Writes([placed.ref.array for placed in self._masters])

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
            ParameterChangedError: If one has become another array than the optimizer was made for.
            TypeError, ValueError: If it is none that can be updated.
        """
        self._is_asked = True
        changed = [part for part in self._parts if not part.is_unchanged()]
        moved: list[tuple[Placed, ArrayRef]] = []
        if not changed and not self._fresh:
            return moved
        for placed in (*(placed for part in changed for placed in part.params), *self._fresh):
            ref, old = param_ref(placed.ref.array, placed.label), placed.ref
            if (ref.shape, ref.format, ref.device) != (old.shape, old.format, old.device):
                raise ParameterChangedError(
                    f"{placed.label} was {old.format} {old.shape} on {old.device} and is now {ref.format} {ref.shape} "
                    f"on {ref.device}: make a new optimizer and load this one's state_dict()"
                )
            if state_strides(ref) != state_strides(old):
                raise ParameterChangedError(f"{placed.label} now lies in memory in another order: make a new optimizer")
            if not ref.same_elements(old):
                moved.append((placed, ref))
        fresh = {placed.index: ref for placed, ref in moved}
        if moved:
            # They are found again, unless they are taken up, which ends with another residence.
            check_apart([(placed.label, fresh.get(placed.index, placed.ref)) for placed in self._params])
        else:
            for part in changed:
                part.look_again()
        return moved

    def written(self) -> list[Placed]:
        """The 16-bit torch parameters that were written to, as by their module's ``load_state_dict``, until `forget_writes`."""
        return [self._masters[k] for k in self._writes.news()] if self._masters else []

    def forget_writes(self) -> None:
        """Take the parameters for what they are now."""
        self._writes.remember()

    def announce(self, tensors: Sequence[Any]) -> None:
        """Tell torch that a step writes to these tensors, so that autograd refuses to use their values of before."""
        if tensors:
            self._writes.announce(tensors)


class _Part:
    """The parameters of one library."""

    def __init__(self, library: Library, params: Sequence[Placed]) -> None:
        self.params = params
        self._library = library
        self._arrays = [placed.ref.array for placed in params]
        self.look_again()

    def look_again(self) -> None:
        """Take the arrays for what they are now."""
        own = all(placed.ref.address == placed.address("param") for placed in self.params if placed.size)
        self._seen = self._library.seen(self._arrays, Lifetime.OWN if own else Lifetime.HELD)
        self._addresses = None if self._seen is None else self._seen.addresses

    def is_unchanged(self) -> bool:
        """Whether nothing about any of them has changed; ``False`` where nobody can tell."""
        return self._seen is not None and self._seen.look(self._arrays) is self._addresses
