"""The host's coefficients where parameters are absent now and then, and so have made different numbers of steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..casting import exact_casts
from ..checks import MOST_STEPS
from ..kernels.abi import ROW_WORDS, SKIP
from ..plan.planner import StepPlan
from ..rules.algorithm import Hyperparameters
from ..rules.hyperparameters import Asked, Averaging
from ..rules.many import coefficients_of
from .coefficients import HostCoefficients

_MANY = 12
"""Step numbers from which on NumPy computes their rows in less time than Python."""


_SPAN = 1 << 14
"""Step numbers that are as near as that."""


class RestingHostCoefficients(HostCoefficients):
    """A row for each parameter; parameters of one record and step number share the work of it."""

    def __init__(
        self, planned: StepPlan, steps: NDArray[np.int64], hyper: Sequence[Hyperparameters], averaging: Averaging
    ) -> None:
        super().__init__(planned, steps, hyper, averaging)
        self._places = np.array([cohort.row for cohort in planned.cohorts], np.intp)
        self._cohorts = [np.flatnonzero(planned.record_of == number) for number in range(len(planned.records))]
        self._distinct = [
            np.zeros((len(own), ROW_WORDS), working.dtype)
            for own, (_, working) in zip(self._cohorts, planned.records, strict=True)
        ]
        # For each record the parameters that are present, and where their rows are.
        self._made: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []

    def take(self, present: NDArray[np.bool_]) -> None:
        """Have the rows of all other parameters say to skip."""
        super().take(present)
        members = self._planned.members
        made = []
        for own, (_, working) in zip(self._cohorts, self._planned.records, strict=True):
            here = present[members[own]]
            self._rows[working.name][self._places[own[~here]], SKIP] = 1.0
            made.append((members[own[here]], self._places[own[here]]))
        self._made = made

    def _compute(self, steps: NDArray[np.int64], factor: float, asked: Asked) -> None:
        for number, (members, places) in enumerate(self._made):
            if not len(members):
                continue
            counts, which = _distinct(steps[members])
            distinct = self._distinct[number][: len(counts)]
            if len(counts) < _MANY or not self._compute_many(number, counts + 1, factor, distinct):
                for place, count in enumerate(counts.tolist()):
                    self._compute_row(number, count + 1, factor, asked, distinct, place)
            self._rows[self._planned.records[number][1].name][places] = distinct[which]

    def _compute_many(self, number: int, steps: NDArray[np.int64], factor: float, rows: NDArray[np.floating]) -> bool:
        """Compute the rows of several steps by a record, unless it must be done one by one; whether it was."""
        group, working = self._planned.records[number]
        found = coefficients_of(self._hyper[group], self._records[number], steps, factor)
        if found is None or steps[-1] > MOST_STEPS or (np.abs(found) > working.largest).any():
            return False
        with exact_casts():
            rows[:] = found
        return True


def _distinct(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """As `numpy.unique` with its inverse; without sorting where the counts are near each other."""
    least = counts.min()
    offsets = counts - least
    span = int(offsets.max()) + 1
    if span > _SPAN:
        return np.unique(counts, return_inverse=True)
    found = np.zeros(span, np.bool_)
    found[offsets] = True
    places = found.cumsum() - 1
    return np.flatnonzero(found) + least, places[offsets]
