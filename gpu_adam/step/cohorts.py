"""How a step comes to its coefficients, and which parameters share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ..dtypes import Format
from ..plan.tables import leaves_of
from ..state.parameter import Placed
from .gradients import Gradients
from .settings import Cohort


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


def cohorts_of(active: Sequence[Placed], steps: NDArray[np.int64]) -> tuple[list[Cohort], list[int]]:
    """The cohorts, and for each parameter the number of its own."""
    cohorts: dict[tuple[int, Format, int], Cohort] = {}
    numbers: dict[tuple[int, Format, int], int] = {}
    rows: dict[Format, int] = {}
    cohort_of = []
    for placed in active:
        working = placed.ref.format.working
        key = (placed.group, working, int(steps[placed.index]))
        if key not in cohorts:
            cohorts[key] = Cohort(placed.group, working, rows.get(working, 0), placed.index)
            numbers[key] = len(numbers)
            rows[working] = rows.get(working, 0) + 1
        cohort_of.append(numbers[key])
    return list(cohorts.values()), cohort_of


def slots_of(active: Sequence[Placed], gradients: Gradients) -> list[int]:
    """The first leaf's slot of each gradient, and at the end the number of slots."""
    slots = [0]
    for placed in active:
        operand = gradients.operand(placed.index)
        slots.append(slots[-1] + leaves_of(0 if operand is None else operand.size))
    return slots


def ranges_of(active: Sequence[Placed], slots: Sequence[int], mode: Mode, groups: int) -> list[tuple[int, int]]:
    """The ranges of slots whose sums are asked for: all of them, then each group's."""
    if not mode.measures:
        return []
    ranges = [(0, slots[-1])]
    if mode.by_group:
        own = [(0, 0)] * groups
        # The parameters are in the groups' order.
        for group, members in groupby(range(len(active)), key=lambda k: active[k].group):
            numbers = list(members)
            own[group] = slots[numbers[0]], slots[numbers[-1] + 1]
        ranges += own
    return ranges
