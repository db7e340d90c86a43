"""What a group holds, as it is saved: copies, and numbers of Python's own types."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from ..arrays import library_of


def plain(value: Any) -> Any:
    """A copy of what is kept in a group, which later edits in place do not reach.

    NumPy's numbers become Python's, also in tuples, lists and dicts: ``torch.load`` reads no others with ``weights_only=True``. Functions,
    which need not be copyable, are shared.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, np.generic):
        number = value.item()
        # Python has no long double.
        return float(number) if isinstance(number, np.floating) else number
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {plain(key): plain(entry) for key, entry in value.items()}
    library = library_of(value)
    if library.holds_gradients:
        return library.copy(value)
    return value if callable(value) else deepcopy(value)


def plain_pair(value: Any) -> Any:
    """The same of a pair of numbers, which may also stand in an array."""
    return tuple(value.tolist()) if isinstance(value, np.ndarray) and value.shape == (2,) else plain(value)
