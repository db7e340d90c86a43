"""Where the state of the parameters is kept: flat arrays in buckets, and views of them in each parameter's shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import ArrayRef, probe, to_host
from ..casting import exact_casts
from ..dtypes import FLOAT32, FLOAT64, Format
from ..engines import Engine
from ..plan.layout import Bucket, Segment
from .buckets import BucketState

AVERAGE = "average"
"""The array of the averages of the parameters."""


@dataclass(frozen=True)
class Place:
    """Where a parameter's state lies.

    Attributes:
        state: The arrays of the bucket.
        segment: The parameter's stretch of each.
    """

    state: BucketState
    segment: Segment


@dataclass(eq=False)
class Placed:
    """One parameter of the optimizer.

    Attributes:
        index: Its number.
        group: Its group's number.
        label: What errors call it: its name, or its group and place.
        ref: The array that is updated.
        engine: The engine that works on it.
        master: Whether a float32 master copy is kept.
        place: Where its state lies; ``None`` until it needs one.
        autograd: Whether it is a torch tensor that autograd computes gradients for, now or at another time.
        loaded: Whether its state was loaded since its last step. Its weights may be loaded later, into an array that cannot tell, so
            what it is right before the next step counts; a master weight that was compared earlier would lose its lower bits.
        lacks_average: Whether the loaded state had no average: it begins with the parameter right before the next step.
    """

    index: int
    group: int
    label: str
    ref: ArrayRef
    engine: Engine
    master: bool
    place: Place | None = None
    autograd: bool = False
    loaded: bool = False
    lacks_average: bool = False

    @property
    def state(self) -> BucketState:
        """The bucket that holds its state; only of a parameter that has a place."""
        assert self.place is not None, f"{self.label} has no state yet"
        return self.place.state

    @property
    def segment(self) -> Segment:
        """Its stretch of the bucket; only of a parameter that has a place."""
        assert self.place is not None, f"{self.label} has no state yet"
        return self.place.segment

    @property
    def size(self) -> int:
        """Its elements."""
        return prod(self.ref.shape)

    def has(self, name: str) -> bool:
        """Whether it has a share of an array of this name."""
        return self.place is not None and self.place.state.has(name)

    def address(self, name: str) -> int:
        """The address of its share's first element; 0 where there is none."""
        return 0 if self.place is None else self.place.state.address(name, self.place.segment.start)

    def view(self, name: str) -> Any:
        """Its share of one of the bucket's arrays."""
        return self.state.segment_view(name, self.segment, self.ref)

    def write(self, name: str, value: NDArray[Any]) -> None:
        """Set its share of one of the bucket's arrays."""
        self.state.write(name, self.segment, self.ref, value)

    def apart(self, name: str, value: NDArray[Any]) -> Any:
        """A host array as its share of one of the bucket's arrays would hold it, in memory of its own."""
        bucket = Bucket(self.ref.device, self.ref.format, self.master, (Segment(0, 0, 0, self.size),), self.size)
        twin = replace(self, place=Place(BucketState(bucket, self.engine), bucket.segments[0]))
        twin.state.ensure([name])
        twin.write(name, value)
        return twin.view(name)

    def begin_average(self) -> None:
        """Where the state was loaded without an average, it is what the parameter is now."""
        if self.lacks_average and self.has(AVERAGE):
            self.write(AVERAGE, to_host(self.ref.array))

    def reread_master(self) -> None:
        """Take over what somebody has written to the parameter."""
        value = self.renewed_master()
        if value is not None:
            self.write("master", value)

    @exact_casts()
    def renewed_master(self) -> NDArray[Any] | None:
        """What its master weight must be where somebody has written to the parameter; ``None`` if it is that.

        Where the parameter is no longer what the master weight rounds to, the parameter counts.
        """
        if not self.has("master") or self.size == 0:
            return None
        param, master = to_host(self.ref.array), to_host(self.view("master"))
        rounded = master.astype(param.dtype)
        # By their bits, for -0.0 is not 0.0; but which NaN a NaN rounds to is not the same everywhere.
        kept = rounded.view(np.uint16) == param.view(np.uint16)
        if not kept.all():
            kept |= np.isnan(rounded) & np.isnan(param)
        return None if kept.all() else np.where(kept, master, param.astype(master.dtype))

    def move_into_bucket(self) -> None:
        """Copy the parameter into its share of ``"param"``, which is what is updated from then on.

        A torch tensor stays the same object and has its memory swapped, so that a module that holds it sees the update.
        """
        self.write("param", to_host(self.ref.array))
        self.ref = probe(self.ref.library.moved(self.ref.array, self.view("param")))

    def bind_gradient(self) -> Any:
        """The view of its share of ``"grad"``; for a torch tensor it becomes the ``.grad``, with the value that was there."""
        place = self.view("grad")
        if self.ref.library.holds_gradients:
            if self.ref.array.grad is not None:
                place.copy_(self.ref.array.grad)
            self.ref.array.grad = place
        return place


def states_of(params: Iterable[Placed]) -> list[BucketState]:
    """The buckets that hold the states of those that have a place, each once, in the order in which they come."""
    return list(dict.fromkeys(placed.place.state for placed in params if placed.place is not None))


def working_formats(params: Iterable[Placed], groups: int) -> list[set[Format]]:
    """The working formats of each group's parameters."""
    formats: list[set[Format]] = [set() for _ in range(groups)]
    for placed in params:
        formats[placed.group].add(placed.ref.format.working)
    return formats


def narrowest(formats: Iterable[set[Format]]) -> Format:
    """The narrowest of these working formats."""
    return FLOAT32 if any(FLOAT32 in own for own in formats) else FLOAT64
