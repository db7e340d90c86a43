"""The flat arrays of a bucket."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import ArrayRef
from ..casting import exact_casts
from ..dtypes import Format
from ..engines import Engine, Memory
from ..plan.layout import Bucket, Segment
from ..strides import dense_strides, visiting_order

_SHARED = ("param", "grad")
"""Arrays that the caller has views of."""


class BucketState:
    """The flat arrays of one bucket, by name: a rule's states, ``"master"``, ``"average"``; with ``pack=True`` ``"param"``, ``"grad"``.

    Each is allocated when it is first needed, and never moves.
    """

    def __init__(self, bucket: Bucket, engine: Engine) -> None:
        self.bucket = bucket
        self.engine = engine
        self._memories: dict[str, Memory] = {}

    def format(self, name: str) -> Format:
        """The format of one of the arrays."""
        return self.bucket.format if name in _SHARED else self.bucket.format.working

    def ensure(self, names: Iterable[str]) -> None:
        """Allocate those of these arrays that are not there yet, all zero."""
        for name in names:
            if name not in self._memories:
                nbytes = self.bucket.size * self.format(name).itemsize
                self._memories[name] = self.engine.allocate(self.bucket.device, nbytes)

    def renewed(self, names: Iterable[str]) -> BucketState:
        """The same bucket with new arrays of these names, all zero; its parameters and gradients stay where they are."""
        fresh = BucketState(self.bucket, self.engine)
        fresh._memories = {name: memory for name, memory in self._memories.items() if name in _SHARED}
        fresh.ensure(names)
        return fresh

    def return_to(self, earlier: BucketState) -> None:
        """Move the arrays into the memory that those of the same bucket had earlier; what is only there becomes zero."""
        for name, memory in earlier._memories.items():
            own = self._memories.get(name)
            if own is not memory:
                values = np.zeros(memory.nbytes, np.uint8) if own is None else self.engine.download(own, 0, own.nbytes)
                self.engine.upload(memory, 0, values)
                self._memories[name] = memory

    def has(self, name: str) -> bool:
        """Whether this array is there."""
        return name in self._memories

    @property
    def memories(self) -> tuple[Memory, ...]:
        """The memory of all arrays that are there."""
        return tuple(self._memories.values())

    def address(self, name: str, place: int) -> int:
        """The address of one element of an array; 0 where the array is not there."""
        memory = self._memories.get(name)
        return 0 if memory is None else memory.address + place * self.format(name).itemsize

    def flat_view(self, name: str, like: ArrayRef) -> Any:
        """A whole array, one-dimensional, of the library that ``like`` is from."""
        memory = self._memories[name]
        shape, format = (self.bucket.size,), self.format(name)
        return like.library.view(self.bucket.device, memory.address, format, shape, (1,), memory.owner)

    def segment_view(self, name: str, segment: Segment, like: ArrayRef) -> Any:
        """One parameter's share, in the parameter's shape and of its library."""
        memory = self._memories[name]
        strides = state_strides(like)
        # An empty share begins at the end of the memory where it is the last one, and nobody knows that address.
        address = self.address(name, segment.start if segment.size else 0)
        device, format = self.bucket.device, self.format(name)
        return like.library.view(device, address, format, like.shape, strides, memory.owner)

    @exact_casts()
    def write(self, name: str, segment: Segment, like: ArrayRef, value: NDArray[Any]) -> None:
        """Copy a host array of the parameter's shape into its share, converted to the array's format."""
        format = self.format(name)
        order = visiting_order(like.shape, like.strides)
        rest = tuple(d for d in range(len(like.shape)) if d not in order)
        flat = np.ascontiguousarray(value.transpose(order + rest).reshape(-1).astype(format.dtype, copy=False))
        self.engine.upload(self._memories[name], segment.start * format.itemsize, flat)


def state_strides(like: ArrayRef) -> tuple[int, ...]:
    """The strides, in elements, of a parameter's state: dense, in the order in which the parameter is visited."""
    return dense_strides(like.shape, like.strides)
