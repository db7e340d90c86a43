"""The gradients that a step uses when it is given none."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, is_
from typing import Any

from .arrays import ArrayRef, plainly, zero
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
            with plainly("torch"):
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
            for placed, bound in zip(self._params, self.arrays, strict=True):
                if placed.ref.family == "torch":
                    _bind(placed, bound)
            likes = {id(one.state): one for one in self._params}
            for one in likes.values():
                zero(one.state.flat_view("grad", one.ref))
            return
        for placed, bound in zip(self._params, self.arrays, strict=True):
            if placed.ref.family == "torch" and set_to_none:
                placed.ref.array.grad = None
            else:
                gradient = placed.ref.array.grad if placed.ref.family == "torch" else bound
                if gradient is not None:
                    zero(gradient[1] if isinstance(gradient, tuple) else gradient)  # of rows, their values


def check_bindable(ref: ArrayRef, label: str) -> None:
    """Nothing, if a torch tensor's ``.grad`` may be a view of a bucket of its dtype, and what is there can be copied into it.

    Raises:
        ValueError: If not.
    """
    if ref.family != "torch" or not ref.array.is_leaf:
        return
    wanted = getattr(ref.array, "grad_dtype", ref.array.dtype)  # None: any; absent before PyTorch 2.10
    if wanted not in (None, ref.array.dtype):
        raise ValueError(
            f"{label} has grad_dtype {wanted}, and pack=True keeps gradients in {ref.array.dtype}: set grad_dtype to that, or to None"
        )
    gradient = ref.array.grad
    if gradient is not None and gradient.is_sparse:
        raise ValueError(f"{label} has a sparse .grad, and pack=True keeps dense ones: set it to None, or to_dense()")


def _bind(placed: Placed, gradient: Any) -> None:
    if placed.ref.array.grad is gradient:
        return
    try:
        placed.ref.array.grad = gradient
    except RuntimeError as error:
        reason = str(error).partition(". ")[0]
        raise ValueError(f"{placed.label} does not take its bucket's gradient any more: {reason}") from None
