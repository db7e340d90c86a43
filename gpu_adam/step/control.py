"""What an optimizer's devices remember of its steps: how many were skipped, and the last norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays import ArrayRef
from ..device import Device
from ..dtypes import FLOAT64
from ..engines import Engine, Memory
from ..kernels.abi import NORMS, SKIPPED, WORD

_LEAST_NORMS = 8
"""Norms that there is room for at first: the global one, and those of a few groups."""


class Control:
    """The control words of each device; allocated when they are first needed.

    All devices of a step decide alike, so one of them is asked. Where there is no room for more norms, memory is added and none given back:
    a graph that a caller has captured goes on counting the steps that it skips where it did.
    """

    def __init__(self) -> None:
        self._memories: dict[Device, list[Memory]] = {}
        self._engines: dict[Device, Engine] = {}
        self._asked: Device | None = None
        self._before = 0

    def ensure(self, engines: Mapping[Device, Engine], norms: int) -> dict[Device, Memory]:
        """The memory of each device of the steps to come, with room for at least so many norms; it may wait for another device."""
        for device, engine in engines.items():
            kept = self._memories.get(device, [])
            if kept and kept[-1].nbytes >= (NORMS + norms) * WORD:
                continue
            # Twice as much each time, so that groups that are added one by one do not add up.
            memory = engine.allocate(device, (NORMS + max(_LEAST_NORMS, 1 << (norms - 1).bit_length())) * WORD)
            self._memories[device], self._engines[device] = [*kept, memory], engine
        if engines and self._asked not in engines:
            device = next(iter(engines))
            self._before, self._asked = self.skipped - self._counted(device), device
        return {device: kept[-1] for device, kept in self._memories.items()}

    @property
    def skipped(self) -> int:
        """Steps skipped so far, for which it waits."""
        return self._before + self._counted(self._asked)

    def restarted(self, skipped: int) -> dict[str, int]:
        """The attributes to be set where so many steps count as skipped, for which it waits; nothing is written to a device."""
        return {"_before": skipped - self._counted(self._asked)}

    def _counted(self, device: Device | None) -> int:
        """Steps skipped as a device knows, whose words begin at 0."""
        if device is None:
            return 0
        words = (self._engines[device].download(memory, SKIPPED * WORD, WORD) for memory in self._memories[device])
        return sum(int(word.view(np.int64)[0]) for word in words)

    def norms(self, like: ArrayRef, first: int, shape: tuple[int, ...]) -> Any:
        """A copy of norms of the last step, as a float64 array of the library and on the device of ``like``; it waits for nothing."""
        memory = self._memories[like.device][-1]
        strides = (1,) * len(shape)
        address = memory.address + (NORMS + first) * WORD
        return like.library.copy(like.library.view(like.device, address, FLOAT64, shape, strides, memory.owner))
