"""Which torch parameters do not train at the moment."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from .parameter import Placed

_requires_grad = attrgetter("requires_grad")


class Frozen:
    """The parameters whose ``requires_grad`` is off, looked at before each step and so in bulk.

    A plain tensor that never required a gradient is not frozen: autograd knows nothing of it, and its ``.grad`` is what somebody put there.

    Attributes:
        indices: Their numbers; another object where others are frozen.
    """

    def __init__(self, params: Sequence[Placed]) -> None:
        self._params = params
        self._tensors = [placed.ref.array for placed in params]
        self._flags: list[bool] = []
        self.indices: tuple[int, ...] = ()

    def look(self) -> None:
        """See which they are now."""
        if not self._tensors:
            return
        with self._params[0].ref.library.plainly():
            flags = list(map(_requires_grad, self._tensors))
        if flags == self._flags:
            return
        for placed, trains in zip(self._params, flags, strict=True):
            placed.autograd |= trains
        pairs = zip(self._params, flags, strict=True)
        self.indices = tuple(placed.index for placed, trains in pairs if placed.autograd and not trains)
        # Last: where an exception comes in between, it is done again.
        self._flags = flags


def is_frozen(placed: Placed) -> bool:
    """Whether a parameter does not train now."""
    return placed.autograd and not placed.ref.array.requires_grad
