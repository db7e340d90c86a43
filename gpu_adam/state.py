"""Where the state of the parameters is kept: flat arrays in buckets, and views of them in each parameter's shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import ArrayRef, probe, to_host, view
from .engines import Engine, Memory
from .formats import FLOAT32, FLOAT64, Format
from .layout import Bucket, Segment, visiting_order


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
        if name in ("param", "grad"):
            return self.bucket.format
        return FLOAT32 if name == "master" else self.bucket.format.working

    def ensure(self, names: Iterable[str]) -> None:
        """Allocate those of these arrays that are not there yet, all zero."""
        for name in names:
            if name not in self._memories:
                nbytes = self.bucket.size * self.format(name).itemsize
                self._memories[name] = self.engine.allocate(self.bucket.device, nbytes)

    def has(self, name: str) -> bool:
        """Whether this array is there."""
        return name in self._memories

    def address(self, name: str, place: int) -> int:
        """The address of one element of an array; 0 where the array is not there."""
        memory = self._memories.get(name)
        return 0 if memory is None else memory.address + place * self.format(name).itemsize

    def flat_view(self, name: str, like: ArrayRef) -> Any:
        """A whole array, one-dimensional, of the library that ``like`` is from."""
        memory = self._memories[name]
        return view(
            like.family, self.bucket.device, memory.address, self.format(name), (self.bucket.size,), (1,), memory.owner
        )

    def segment_view(self, name: str, segment: Segment, like: ArrayRef) -> Any:
        """One parameter's share, in the parameter's shape and of its library."""
        memory = self._memories[name]
        strides = state_strides(like)
        address = self.address(name, segment.start)
        return view(like.family, self.bucket.device, address, self.format(name), like.shape, strides, memory.owner)

    def write(self, name: str, segment: Segment, like: ArrayRef, value: NDArray[Any]) -> None:
        """Copy a host array of the parameter's shape into its share, converted to the array's format."""
        format = self.format(name)
        order = visiting_order(like.shape, like.strides)
        rest = tuple(d for d in range(len(like.shape)) if d not in order)
        flat = np.ascontiguousarray(value.transpose(order + rest).reshape(-1).astype(format.dtype, copy=False))
        self.engine.upload(self._memories[name], segment.start * format.itemsize, flat)


@dataclass
class Placed:
    """One parameter of the optimizer.

    Attributes:
        index: Its number.
        group: Its group's number.
        label: What errors call it: its name, or its group and place.
        ref: The array that is updated.
        state: The bucket that holds its state.
        segment: Its place there.
    """

    index: int
    group: int
    label: str
    ref: ArrayRef
    state: BucketState
    segment: Segment

    @property
    def master(self) -> bool:
        """Whether a float32 master copy is kept."""
        return self.state.bucket.master

    def view(self, name: str) -> Any:
        """Its share of one of the bucket's arrays."""
        return self.state.segment_view(name, self.segment, self.ref)

    def write(self, name: str, value: NDArray[Any]) -> None:
        """Set its share of one of the bucket's arrays."""
        self.state.write(name, self.segment, self.ref, value)

    def reread_master(self) -> None:
        """Where the parameter is no longer what its master weight rounds to, somebody has written to it, and that is what counts."""
        if not self.master or self.segment.size == 0:
            return
        param, master = to_host(self.ref.array), to_host(self.view("master"))
        with np.errstate(invalid="ignore", over="ignore"):  # a signalling NaN, or a weight beyond the 16-bit format
            same = master.astype(param.dtype) == param
            if not same.all():
                self.write("master", np.where(same, master, param.astype(master.dtype)))

    def move_into_bucket(self) -> None:
        """Copy the parameter into its share of ``"param"``, which is what is updated from then on.

        A torch tensor stays the same object and has its memory swapped, so that a module that holds it sees the update.
        """
        self.write("param", to_host(self.ref.array))
        place = self.view("param")
        if self.ref.family == "torch":
            self.ref.array.data = place
            place = self.ref.array
        self.ref = probe(place)

    def bind_gradient(self) -> Any:
        """The view of its share of ``"grad"``; for a torch tensor it becomes the ``.grad``, with the value that was there."""
        place = self.view("grad")
        if self.ref.family == "torch":
            if self.ref.array.grad is not None:
                place.copy_(self.ref.array.grad)
            self.ref.array.grad = place
        return place


def working_formats(params: Iterable[Placed], groups: int) -> list[set[Format]]:
    """The working formats of each group's parameters."""
    formats: list[set[Format]] = [set() for _ in range(groups)]
    for placed in params:
        formats[placed.group].add(placed.ref.format.working)
    return formats


def narrowest(formats: Iterable[set[Format]]) -> Format:
    """The narrowest of these working formats."""
    return FLOAT32 if any(FLOAT32 in own for own in formats) else FLOAT64


def state_strides(like: ArrayRef) -> tuple[int, ...]:
    """The strides, in elements, of a parameter's state: dense, in the order in which the parameter is visited."""
    strides = [1] * len(like.shape)
    step = 1
    for d in reversed(visiting_order(like.shape, like.strides)):
        strides[d] = step
        step *= like.shape[d]
    return tuple(strides)
