"""The gradients that a step uses when it is given none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, is_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import library_of
from ..lazy import cached_property
from ..state.frozen import Frozen
from ..state.parameter import Placed

_grad_of = attrgetter("grad")


class Bound:
    """For torch tensors their ``.grad``; for others the arrays that were assigned; with ``pack=True`` the views of the buckets.

    Attributes:
        arrays: One array or ``None`` for each parameter, as assigned or packed; for torch tensors only while packed.
        steady: What `current` returned last, if it need not be looked up again as long as `current` returns it.
    """

    def __init__(self, params: Sequence[Placed], arrays: Sequence[Any], pack: bool) -> None:
        self.arrays = self.steady = arrays
        self._params = params
        self._pack = pack
        self._left_out: tuple[int, ...] = ()

    # Found when they are asked for: groups may be added by the thousand.

    @cached_property
    def torch(self) -> list[Placed]:
        """The parameters that are torch tensors."""
        return [one for one in self._params if one.ref.library.holds_gradients]

    @cached_property
    def _tensors(self) -> list[Any]:
        return [one.ref.array for one in self.torch]

    @cached_property
    def _frozen(self) -> Frozen:
        return Frozen(self.torch)

    @cached_property
    def _unplaced(self) -> list[Placed]:
        return [one for one in self._params if one.place is None]

    def bind(self, arrays: Sequence[Any]) -> None:
        """Take these arrays from now on."""
        # In one operation, as all that an exception may come in the middle of.
        vars(self).update(arrays=arrays, steady=arrays)

    def thawed(self) -> list[Placed]:
        """The parameters that are to be packed and are not, since they were frozen when the others were."""
        if not self._unplaced:
            return []
        self._look()
        return [one for one in self._unplaced if one.place is None and one.index not in self._frozen.indices]

    def _look(self) -> None:
        self._frozen.look()
        if self._frozen.indices is not self._left_out:
            frozen = set(self._frozen.indices)
            self.steady = [None if k in frozen else array for k, array in enumerate(self.arrays)]
            self._left_out = self._frozen.indices

    def current(self) -> Sequence[Any]:
        """One gradient or ``None`` for each parameter; the same object as long as nothing need be looked up."""
        if not self.torch:
            return self.arrays
        self._look()
        if len(self.torch) == len(self._params):
            with self.torch[0].ref.library.plainly():
                arrays = list(map(_grad_of, self._tensors))
        else:
            arrays = [
                placed.ref.array.grad if placed.ref.library.holds_gradients else bound
                for placed, bound in zip(self._params, self.arrays, strict=True)
            ]
        for index in self._frozen.indices:
            arrays[index] = None
        # The buckets' own views count as one object, which stays as it is.
        return self.steady if all(map(is_, arrays, self.steady)) else arrays

    def refuse_absent(self, read_steps: Callable[[], NDArray[np.int64]]) -> None:
        """Raise an error if gradients are absent because nobody will ever provide them.

        Args:
            read_steps: Tells the parameters' step counts, for which it may wait.

        Raises:
            ValueError: For arrays that bind no gradients by themselves, and for tensors that autograd does not know.
        """
        if not self.torch:
            raise ValueError("there are no gradients: call step(grads), or assign opt.grads first")
        if not any(one.autograd for one in self.torch) and not read_steps().any():
            raise ValueError(
                "there are no gradients, and no parameter requires one: pass model.parameters() and not copies of them, "
                "call step(grads), or set .grad first"
            )

    def clear(self, set_to_none: bool) -> None:
        """Fill them with zeros; a torch tensor's ``.grad`` becomes ``None`` if so asked and not packed."""
        if self._pack:
            for placed, bound in zip(self._params, self.arrays, strict=True):
                if placed.ref.library.holds_gradients and placed.has("grad"):
                    _bind(placed, bound)
            likes = {id(one.state): one for one in self._params if one.has("grad")}
            for one in likes.values():
                one.ref.library.zero(one.state.flat_view("grad", one.ref))
        for placed, bound in zip(self._params, self.arrays, strict=True):
            if placed.has("grad"):
                if placed.ref.library.holds_gradients and bound.data_ptr() != placed.address("grad"):
                    bound.zero_()  # somebody has given it other memory
                continue
            tensor = placed.ref.array
            if not placed.ref.library.holds_gradients:
                if bound is not None:
                    array = bound[1] if isinstance(bound, tuple) else bound  # of rows, their values
                    library_of(array).zero(array)
            elif set_to_none:
                tensor.grad = None
            elif tensor.grad is not None:
                _clear_grad(tensor)


def _bind(placed: Placed, gradient: Any) -> None:
    if placed.ref.array.grad is gradient:
        return
    try:
        placed.ref.array.grad = gradient
    except RuntimeError as error:
        reason = str(error).partition(". ")[0]
        raise ValueError(f"{placed.label} does not take its bucket's gradient any more: {reason}") from None


def _clear_grad(tensor: Any) -> None:
    """Fill a torch tensor's gradient with zeros, cut off from the graph that computed it."""
    gradient = tensor.grad
    # Not through `detach()`: a sparse tensor that is zeroed loses its elements, and a detached one is another tensor.
    if gradient.grad_fn is None:
        gradient.requires_grad_(False)
    elif gradient._is_view():
        tensor.grad = gradient = gradient.detach()  # of a view it cannot be done in place
    else:
        gradient.detach_()
    gradient.zero_()
