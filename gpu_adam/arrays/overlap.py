"""Whether arrays share memory, from their descriptions alone: addresses are compared, never followed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .library import ArrayRef, reach
from .stretches import HostStretch

_MAX_WORK = 100_000
"""Candidate solutions that the exact test may look at; past that two arrays count as overlapping."""


class Occupied:
    """The memory of some arrays of one device, to look others up in.

    Args:
        refs: The arrays; their numbers are their places here, and go on with `extend`.
    """

    def __init__(self, refs: Sequence[ArrayRef]) -> None:
        self._count = 0
        self._refs: list[ArrayRef] = []
        self._indices: list[int] = []
        self._starts: list[int] = []
        # The furthest end so far tells how far back an overlap is possible at all.
        self._ends: list[int] = []
        self._bounds: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
        self.extend(refs)

    def extend(self, refs: Sequence[ArrayRef]) -> None:
        """Add arrays; of few beside many it costs little more than a look for their places."""
        self._bounds = None
        numbered = [(k, ref) for k, ref in enumerate(refs, start=self._count) if 0 not in ref.shape]
        self._count += len(refs)
        if len(numbered) * 8 < len(self._refs):
            for index, ref in numbered:
                self._insert(index, ref)
            return
        numbered += zip(self._indices, self._refs, strict=True)
        spans = sorted((*reach(ref), index, ref) for index, ref in numbered)
        self._starts = [start for start, _, _, _ in spans]
        self._ends = list(accumulate((stop for _, stop, _, _ in spans), max))
        self._indices = [index for _, _, index, _ in spans]
        self._refs = [ref for _, _, _, ref in spans]

    def _insert(self, index: int, ref: ArrayRef) -> None:
        start, stop = reach(ref)
        k = bisect_right(self._starts, start)
        self._starts.insert(k, start)
        self._indices.insert(k, index)
        self._refs.insert(k, ref)
        self._ends.insert(k, max(stop, self._ends[k - 1]) if k else stop)
        for later in range(k + 1, len(self._ends)):
            if self._ends[later] >= stop:
                return
            self._ends[later] = stop

    def are_clear(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For each stretch of bytes whether no array reaches into it; ``False`` may be a false alarm."""
        if self._bounds is None:
            self._bounds = np.array(self._starts, np.int64), np.array([0, *self._ends], np.int64)
        own_starts, ends = self._bounds
        return ends[np.searchsorted(own_starts, stops, "left")] <= starts

    def overlapping(self, ref: ArrayRef) -> Iterator[int]:
        """The numbers of the arrays that share an element with ``ref``."""
        start, stop = reach(ref)
        if start == stop:
            return
        for k in range(bisect_left(self._starts, stop) - 1, -1, -1):
            if self._ends[k] <= start:
                return
            if shares_memory(self._refs[k], ref):
                yield self._indices[k]

    def conflict(self) -> tuple[int, int] | None:
        """Two of the arrays that share an element, by their numbers, or ``None``."""
        for first, stop in self._clusters():
            for members in self._classes(range(first, stop)):
                for n, k in enumerate(members):
                    end = reach(self._refs[k])[1]
                    for later in islice(members, n + 1, None):
                        if self._starts[later] >= end:
                            break
                        if shares_memory(self._refs[k], self._refs[later]):
                            return self._indices[k], self._indices[later]
        return None

    def _clusters(self) -> Iterator[tuple[int, int]]:
        """The arrays, by their places, whose extents are joined: where each stretch of several begins and stops."""
        first = 0
        for k in range(1, len(self._starts) + 1):
            if k == len(self._starts) or self._starts[k] >= self._ends[k - 1]:
                if k - first > 1:
                    yield first, k
                first = k

    def _classes(self, places: Sequence[int]) -> Iterator[list[int]]:
        """These arrays apart from those that they cannot meet, such as the columns of one matrix: all strides step over what is between."""
        runs = {k: _run_of(self._refs[k]) for k in places}
        common = gcd(*(stride for _, strides in runs.values() for stride in strides))
        if common == 0:
            yield list(places)
            return
        # Where each array's runs lie within the common stride: all of them there.
        classes: list[tuple[int, list[int]]] = []
        end = 0
        for offset, k in sorted((self._starts[k] % common, k) for k in places):
            if not classes or offset >= end:
                classes.append((offset, []))
            classes[-1][1].append(k)
            end = max(end, offset + runs[k][0])
        # The last one's may end in the next stride, where the first ones' are.
        last = classes.pop()[1]
        while classes and classes[0][0] < end - common:
            last += classes.pop(0)[1]
        for one in (*(members for _, members in classes), last):
            if len(one) > 1:
                yield sorted(one)


def shares_memory(a: ArrayRef, b: ArrayRef) -> bool:
    """Whether two arrays of one device share an element; columns of one matrix do not, though their extents do."""
    try:
        return bool(np.shares_memory(_stand_in(a), _stand_in(b), max_work=_MAX_WORK))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _stand_in(ref: ArrayRef) -> np.ndarray[Any, Any]:
    """A NumPy array of the same addresses, made to be compared and never read."""
    interface = {
        "shape": ref.shape,
        "strides": tuple(stride * ref.format.itemsize for stride in ref.strides),
        "typestr": f"|V{ref.format.itemsize}",
        "data": (ref.address, False),
        "version": 3,
    }
    return np.asarray(HostStretch(interface, None))


def _run_of(ref: ArrayRef) -> tuple[int, list[int]]:
    """The bytes that lie side by side, and the strides in bytes that lead from one such run to the next."""
    run, strides = ref.format.itemsize, []
    pairs = ((abs(stride) * ref.format.itemsize, size) for size, stride in zip(ref.shape, ref.strides, strict=True))
    for stride, size in sorted(pair for pair in pairs if pair[1] > 1):
        if stride == run:
            run *= size
        else:
            strides.append(stride)
    return run, strides
