"""How a step comes to its coefficients, and which parameters share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..dtypes import Format
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


Record = tuple[int, Format]
"""A group and a working format: what a record of hyperparameters is of."""


def cohorts_of(
    updates: Sequence[Update], steps: NDArray[np.int64], *, apart: bool = False
) -> tuple[tuple[Cohort, ...], list[int]]:
    """The cohorts, and for each update the number of its own.

    Args:
        updates: What is updated.
        steps: The step counts of all parameters.
        apart: Whether each update is a cohort of its own.
    """
    numbers: dict[tuple[int, Format, int], int] = {}
    members: list[list[int]] = []
    cohort_of = []
    for update in updates:
        key = (update.group, update.format.working, update.index if apart else int(steps[update.index]))
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


def records_of(cohorts: Sequence[Cohort]) -> tuple[tuple[Record, ...], NDArray[np.intp]]:
    """What the coefficients of cohorts are computed from, each once, and for each cohort the number of its own."""
    numbers: dict[Record, int] = {}
    record_of = [numbers.setdefault((one.group, one.working), len(numbers)) for one in cohorts]
    return tuple(numbers), np.array(record_of, np.intp)


def slots_among(leaves: NDArray[np.int64], present: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """The first leaf's slot of each gradient, where some are absent: present ones come first, as if there were no others.

    Args:
        leaves: The leaves of each gradient.
        present: Which ones there are.

    Returns:
        The slots, and how many belong to those that are present.
    """
    own = leaves * present
    ends = own.cumsum()
    firsts, total = ends - own, int(ends[-1]) if len(ends) else 0
    absent = np.flatnonzero(~present)
    rest = leaves[absent]
    firsts[absent] = total + rest.cumsum() - rest
    return firsts, total
