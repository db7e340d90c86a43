"""Which members of a plan have a gradient in a step, and what follows from that for the norm.

A member without one *rests*: its launch finds a row of coefficients that says to skip, and leaves its memory alone. Where gradients are
measured it has no elements, and the slots of the others are numbered as if it were not there, so that the norm is to the bit that of a
plan without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .cohorts import Mode, slots_among
from .tables import MeasureTable, leaves_of
from .updates import Update


@dataclass(frozen=True, eq=False)
class Measured:
    """The gradients that a device measures.

    Attributes:
        table: Its table.
        places: For each gradient of it its place among the plan's members.
    """

    table: MeasureTable
    places: NDArray[np.intp]


class Presence:
    """Which parameters a step updates.

    Args:
        updates: The members of the plan.
        count: All parameters.
        mode: How the step comes to its coefficients.
        groups: How many there are.

    Attributes:
        present: For each parameter whether the step updates it; another array where others are.
        ranges: The ranges of slots whose sums are asked for: all of them, then each group's.
        slots: The leaves of all members.
    """

    def __init__(self, updates: Sequence[Update], count: int, mode: Mode, groups: int) -> None:
        self._members = np.array([update.index for update in updates], np.intp)
        self._leaves = np.array(
            [leaves_of(update.operand.size) if mode.measures else 0 for update in updates], np.int64
        )
        self._mode = mode
        # The members are in the groups' order.
        of = np.array([update.group for update in updates], np.intp)
        self._bounds = np.searchsorted(of, np.arange(groups + 1)) if mode.by_group else np.zeros(0, np.intp)
        self._measured: list[Measured] = []
        self.slots = int(self._leaves.sum())
        self.present: NDArray[np.bool_] = np.zeros(count, np.bool_)
        self.present[self._members] = True
        self.firsts, self.ranges = self._placed(np.ones(len(updates), np.bool_))

    def measure(self, measured: Sequence[Measured]) -> None:
        """Have these tables follow."""
        self._measured = list(measured)

    def covers(self, present: NDArray[np.bool_]) -> bool:
        """Whether all of these parameters are members."""
        return int(np.count_nonzero(present[self._members])) == int(np.count_nonzero(present))

    def take(self, present: NDArray[np.bool_]) -> None:
        """Be these parameters, all of them members, from the next step on."""
        self.present = present
        if not self._mode.measures:
            return
        own = present[self._members]
        self.firsts, self.ranges = self._placed(own)
        for one in self._measured:
            one.table.measure(own[one.places], self.firsts[one.places])

    def _placed(self, own: NDArray[np.bool_]) -> tuple[NDArray[np.int64], tuple[tuple[int, int], ...]]:
        """The first slot of each member, and the ranges, where some members are present."""
        firsts, total = slots_among(self._leaves, own)
        if not self._mode.measures:
            return firsts, ()
        ends = np.concatenate(([0], np.where(own, self._leaves, 0).cumsum()))
        cuts = ends[self._bounds].tolist()
        return firsts, ((0, total), *pairwise(cuts))
