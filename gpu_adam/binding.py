"""The gradients that a step uses when it is given none."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, is_
from typing import Any

from .arrays import zero
from .state import Placed

_grad_of = attrgetter("grad")


class Bound:
    """For torch tensors their ``.grad``; for others the arrays that were assigned; with ``pack=True`` the views of the buckets.

    Attributes:
        arrays: One array or ``None`` for each parameter, as assigned or packed; for torch tensors only while packed.
    """

    def __init__(self, params: Sequence[Placed], arrays: Sequence[Any], pack: bool) -> None:
        self.arrays = arrays
        self._params = params
        self._pack = pack
        self.torch = [one for one in params if one.ref.family == "torch"]
        self._tensors = [one.ref.array for one in self.torch]

    def current(self) -> Sequence[Any]:
        """One gradient or ``None`` for each parameter; the same object as long as nothing need be looked up."""
        if not self.torch:
            return self.arrays
        if len(self.torch) == len(self._params):
            arrays = list(map(_grad_of, self._tensors))
        else:
            arrays = [
                placed.ref.array.grad if placed.ref.family == "torch" else bound
                for placed, bound in zip(self._params, self.arrays, strict=True)
            ]
        # The buckets' own views count as one object, which stays as it is.
        return self.arrays if all(map(is_, arrays, self.arrays)) else arrays

    def clear(self, set_to_none: bool) -> None:
        """Fill them with zeros; a torch tensor's ``.grad`` becomes ``None`` if so asked and not packed."""
        if self._pack:
            likes = {id(one.state): one for one in self._params}
            for one in likes.values():
                zero(one.state.flat_view("grad", one.ref))
            for placed, bound in zip(self._params, self.arrays, strict=True):
                if placed.ref.family == "torch":
                    placed.ref.array.grad = bound
            return
        for placed, bound in zip(self._params, self.arrays, strict=True):
            if placed.ref.family == "torch" and set_to_none:
                placed.ref.array.grad = None
            else:
                gradient = placed.ref.array.grad if placed.ref.family == "torch" else bound
                if gradient is not None:
                    zero(gradient[1] if isinstance(gradient, tuple) else gradient)  # of rows, their values
