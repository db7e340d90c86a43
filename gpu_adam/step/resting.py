"""The host's coefficients where parameters are absent now and then, and so have made different numbers of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import MOST_STEPS
from ..kernels.abi import ROW_WORDS, SKIP
from ..plan.planner import StepPlan
from ..rules.algorithm import Hyperparameters
from ..rules.hyperparameters import Asked, Averaging
from ..rules.many import write_coefficients
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
        self._portions = [
            _Portion(planned, np.flatnonzero(planned.record_of == number), self._rows[working.name])
            for number, (_, working) in enumerate(planned.records)
        ]

    def take(self, present: NDArray[np.bool_]) -> None:
        """Have the rows of all other parameters say to skip."""
        super().take(present)
        for portion in self._portions:
            portion.here = present[portion.members]

    def _compute(self, steps: NDArray[np.int64], factor: float, asked: Asked) -> None:
        for number, portion in enumerate(self._portions):
            counts, which = _distinct(steps[portion.members[portion.here]])
            distinct = portion.distinct[: len(counts)]
            if len(counts) < _MANY or counts[-1] >= MOST_STEPS or not self._write_many(number, counts + 1, factor):
                for place, count in enumerate(counts.tolist()):
                    self._compute_row(number, count + 1, factor, asked, distinct, place)
            portion.distinct[len(counts)] = portion.skip
            portion.which.fill(len(counts))
            portion.which[portion.here] = which
            portion.distinct.take(portion.which, axis=0, out=portion.rows, mode="clip")

    def _write_many(self, number: int, steps: NDArray[np.int64], factor: float) -> bool:
        hyper = self._hyper[self._planned.records[number][0]]
        rows = self._portions[number].distinct[: len(steps)]
        return write_coefficients(hyper, self._records[number], steps, factor, rows)


class _Portion:
    """The parameters of one record, whose rows follow each other.

    Attributes:
        members: Their numbers.
        here: Which of them are present.
        rows: Their rows.
        which: For each its row's place in `distinct`.
        distinct: The rows that differ, of the step numbers that they make, and then one that says to skip.
        skip: That one.
    """

    def __init__(self, planned: StepPlan, cohorts: NDArray[np.intp], rows: NDArray[np.floating[Any]]) -> None:
        self.members = planned.members[cohorts]
        self.here: NDArray[np.bool_] = np.ones(len(cohorts), np.bool_)
        first = planned.cohorts[cohorts[0]].row
        self.rows = rows[first : first + len(cohorts)]
        self.which: NDArray[np.intp] = np.zeros(len(cohorts), np.intp)
        self.distinct = np.zeros((len(cohorts) + 1, ROW_WORDS), rows.dtype)
        self.skip = np.zeros(ROW_WORDS, rows.dtype)
        self.skip[SKIP] = 1


def _distinct(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """As `numpy.unique` with its inverse; without sorting where the counts are near each other."""
    if not len(counts):
        return counts, np.zeros(0, np.intp)
    least = counts.min()
    offsets = counts - least
    span = int(offsets.max()) + 1
    if span > _SPAN:
        return np.unique(counts, return_inverse=True)
    found = np.zeros(span, np.bool_)
    found[offsets] = True
    places = found.cumsum() - 1
    return np.flatnonzero(found) + least, places[offsets]
