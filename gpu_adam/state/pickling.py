"""What is pickled beside the parameters: a state dict without tensors that live no longer than the dict, and how arrays lay in memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import ArrayRef, to_host
from ..strides import visiting_order


def lasting(saved: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A state dict as it may be sent to another process.

    PyTorch sends a tensor by naming the memory that it shares, and a copy that was made for the sending is gone before the other process
    looks for it. NumPy's arrays and Python's numbers are sent whole.

    Args:
        saved: The state dict, of copies.
        groups: The optimizer's groups, whose values outlive the sending.
    """
    state = {
        key: {name: to_host(value) if hasattr(value, "shape") else value for name, value in entry.items()}
        for key, entry in saved["state"].items()
    }
    kept = [
        {key: own[key] if key in own and key != "params" else value for key, value in group.items()}
        for group, own in zip(saved["param_groups"], groups, strict=True)
    ]
    return {**saved, "state": state, "param_groups": kept}


def order_of(ref: ArrayRef) -> tuple[int, ...]:
    """The dimensions of an array in the order in which it lies in memory, by which its norm is summed."""
    return visiting_order(ref.shape, ref.strides)


def lay_out(array: Any, order: Sequence[int]) -> None:
    """Have a NumPy array that was pickled lie in memory in the order of its dimensions that it had.

    A pickle keeps C's order and Fortran's, and makes C's of all others. The array itself stays, for the same pickle may hold it elsewhere.
    """
    if not isinstance(array, np.ndarray) or not (array.flags.forc and array.flags.writeable):
        return
    if not array.flags.owndata and not isinstance(array.base, bytes):
        return  # in memory of somebody else's
    if visiting_order(array.shape, array.strides) == tuple(order):
        return
    values, step, strides = array.copy(), array.itemsize, list(array.strides)
    for d in reversed(order):
        strides[d] = step
        step *= array.shape[d]
    with warnings.catch_warnings():
        # NumPy has no other way to do it in place, and advises against this one.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            array.strides = tuple(strides)
        except (AttributeError, TypeError, ValueError):
            return
    array[...] = values
