"""The step counts as a state shows them: a number of each parameter, as a tensor."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..state.checkpoint import FLOAT32_INTEGERS


class Counts:
    """The step counts of some parameters, in one array; float32 as in PyTorch, float64 from the first one on that float32 cannot hold.

    Args:
        size: How many parameters.
    """

    def __init__(self, size: int) -> None:
        self._array: NDArray[np.floating] = np.zeros(size, np.float32)
        # What was written there last, to tell a user's edits by.
        self._told = self._array.tobytes()

    def view(self, index: int) -> Tensor:
        """One of them as it is shown, a tensor without dimensions and with a storage of its own."""
        return torch.from_numpy(self._array[index : index + 1]).view(())

    @property
    def were_edited(self) -> bool:
        """Whether somebody else has written to any of them."""
        return self._array.tobytes() != self._told

    @property
    def edited(self) -> NDArray[np.bool_]:
        """Which of them somebody else has written to."""
        words = np.dtype(f"u{self._array.itemsize}")
        edited: NDArray[np.bool_] = self._array.view(words) != np.frombuffer(self._told, words)
        return edited

    def forget_edits(self) -> None:
        """Take them for what they are: the next ones that are told count, wherever they go."""
        self._told = self._array.tobytes()

    def are_narrow_for(self, counts: NDArray[np.int64]) -> bool:
        """Whether their format does not hold all of these."""
        return self._array.itemsize == 4 and bool(counts.max(initial=0) > FLOAT32_INTEGERS)

    def widen(self) -> None:
        """Be float64 from now on, shown by other tensors; edits stay edits."""
        before = np.frombuffer(self._told, self._array.dtype)
        self._array = self._array.astype(np.float64)
        self._told = before.astype(np.float64).tobytes()

    def tell(self, counts: NDArray[np.int64]) -> None:
        """Have them be these, but for those that were edited."""
        if self.were_edited:
            fresh = counts.astype(self._array.dtype)
            np.copyto(self._array, fresh, where=~self.edited)
            self._told = fresh.tobytes()
        else:
            # In every step, so without a copy.
            self._array[...] = counts
            self._told = self._array.tobytes()
