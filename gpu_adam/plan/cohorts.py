"""How a step comes to its coefficients, and which parameters share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ..dtypes import Format
from .tables import leaves_of
from .updates import Update


@dataclass(frozen=True)
class Mode:
    """How a step comes to its coefficients.

    Attributes:
        on_device: Whether a prologue computes them on the device, because the host does not know whether the last steps were skipped,
            how the gradients are scaled, or when a graph will be replayed.
        measures: Whether the prologue measures the gradients first.
        by_group: Whether it measures each group's as well.
    """

    on_device: bool = False
    measures: bool = False
    by_group: bool = False


@dataclass(frozen=True)
class Cohort:
    """Parameters that share a row of coefficients: of one group, one working format and one step count.

    Attributes:
        group: The group's number.
        working: The working format.
        row: The row among those of its working format.
        members: The numbers of its parameters, whose step counts are all the same.
    """

    group: int
    working: Format
    row: int
    members: tuple[int, ...]


def cohorts_of(updates: Sequence[Update], steps: NDArray[np.int64]) -> tuple[tuple[Cohort, ...], list[int]]:
    """The cohorts, and for each update the number of its own.

    Args:
        updates: What is updated.
        steps: The step counts of all parameters.
    """
    numbers: dict[tuple[int, Format, int], int] = {}
    members: list[list[int]] = []
    cohort_of = []
    for update in updates:
        key = (update.group, update.format.working, int(steps[update.index]))
        index = numbers.setdefault(key, len(members))
        if index == len(members):
            members.append([])
        members[index].append(update.index)
        cohort_of.append(index)
    rows: dict[Format, int] = {}
    cohorts = []
    for (group, working, _), own in zip(numbers, members, strict=True):
        rows[working] = rows.get(working, -1) + 1
        cohorts.append(Cohort(group, working, rows[working], tuple(own)))
    return tuple(cohorts), cohort_of


def slots_of(updates: Sequence[Update]) -> list[int]:
    """The first leaf's slot of each gradient, and at the end the number of slots."""
    slots = [0]
    for update in updates:
        slots.append(slots[-1] + leaves_of(update.operand.size))
    return slots


def ranges_of(updates: Sequence[Update], slots: Sequence[int], mode: Mode, groups: int) -> list[tuple[int, int]]:
    """The ranges of slots whose sums are asked for: all of them, then each group's."""
    if not mode.measures:
        return []
    ranges = [(0, slots[-1])]
    if mode.by_group:
        own = [(0, 0)] * groups
        # The parameters are in the groups' order.
        for group, members in groupby(range(len(updates)), key=lambda k: updates[k].group):
            numbers = list(members)
            own[group] = slots[numbers[0]], slots[numbers[-1] + 1]
        ranges += own
    return ranges
