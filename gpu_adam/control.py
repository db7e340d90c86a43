"""What an optimizer's devices remember of its steps: how many were skipped, and the last norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .arrays import ArrayRef, copy_of, view
from .engines import Engine, Memory
from .formats import FLOAT64
from .kernels.prologue import NORMS, SKIPPED, WORD
from .layout import Device


class Control:
    """The control words of each device; allocated when they are first needed.

    All devices decide alike, so any of them can be asked.

    Args:
        skipped: How many steps were skipped so far.
    """

    def __init__(self, skipped: int = 0) -> None:
        self._memories: dict[Device, Memory] = {}
        self._engines: dict[Device, Engine] = {}
        self._skipped = skipped

    def ensure(self, engines: Mapping[Device, Engine], norms: int) -> dict[Device, Memory]:
        """The memory of each device, with room for at least so many norms."""
        for device, engine in engines.items():
            nbytes = (NORMS + norms) * WORD
            old = self._memories.get(device)
            if old is not None and old.nbytes >= nbytes:
                continue
            skipped = self.skipped
            memory = engine.allocate(device, nbytes)
            engine.upload(memory, SKIPPED * WORD, np.array([skipped], np.int64))
            self._memories[device], self._engines[device] = memory, engine
        return self._memories

    @property
    def skipped(self) -> int:
        """Steps skipped so far, for which it waits."""
        for device, memory in self._memories.items():
            return int(self._engines[device].download(memory, SKIPPED * WORD, WORD).view(np.int64)[0])
        return self._skipped

    def norms(self, like: ArrayRef, first: int, shape: tuple[int, ...]) -> Any:
        """A copy of norms of the last step, as a float64 array of the library and on the device of ``like``; it waits for nothing."""
        memory = self._memories[like.device]
        strides = (1,) * len(shape)
        address = memory.address + (NORMS + first) * WORD
        return copy_of(like.family, view(like.family, like.device, address, FLOAT64, shape, strides, memory.owner))
