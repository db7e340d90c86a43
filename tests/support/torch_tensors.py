"""torch's tensors over NumPy's memory, bfloat16 among their formats."""

from __future__ import annotations

from typing import Any

import numpy as np


def as_torch(array: np.ndarray[Any, Any]) -> Any:
    """A tensor over the memory of an array, with a storage of its own."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
