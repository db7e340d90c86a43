"""The host's coefficients where parameters are absent now and then, and so have made different numbers of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checks import MOST_STEPS
from ..kernels.abi import ROW_WORDS, SKIP
from ..plan.step_plan import StepPlan
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
            rows: NDArray[np.floating[Any]] = np.zeros((len(counts) + 1, ROW_WORDS), portion.rows.dtype)
            rows[-1, SKIP] = 1
            # Most step numbers were another parameter's in the last step.
            missing = portion.recall(counts, rows, self._hyper, factor)
            if len(missing) < _MANY or not self._compute_many(number, counts, missing, factor, rows):
                for place in missing.tolist():
                    self._compute_row(number, int(counts[place]) + 1, factor, asked, rows, place)
            if not self._hyper[self._planned.records[number][0]].is_scheduled:
                portion.known = _Known(counts, rows, self._hyper, factor)
            portion.which.fill(len(counts))
            portion.which[portion.here] = which
            rows.take(portion.which, axis=0, out=portion.rows, mode="clip")

    def _compute_many(
        self,
        number: int,
        counts: NDArray[np.int64],
        missing: NDArray[np.intp],
        factor: float,
        rows: NDArray[np.floating[Any]],
    ) -> bool:
        if counts[-1] >= MOST_STEPS:
            return False
        hyper = self._hyper[self._planned.records[number][0]]
        found = np.zeros((len(missing), ROW_WORDS), rows.dtype)
        done = write_coefficients(hyper, self._records[number], counts[missing] + 1, factor, found)
        rows[missing] = found
        return done


class _Known(NamedTuple):
    """Rows that were computed, in the order of the step counts before them, and what else they were computed from."""

    counts: NDArray[np.int64]
    rows: NDArray[np.floating[Any]]
    hyper: Sequence[Hyperparameters]
    factor: float


class _Portion:
    """The parameters of one record, whose rows follow each other.

    Attributes:
        members: Their numbers.
        here: Which of them are present.
        rows: Their rows.
        which: For each the place of its row among those that differ.
        known: The last ones that differ.
    """

    def __init__(self, planned: StepPlan, cohorts: NDArray[np.intp], rows: NDArray[np.floating[Any]]) -> None:
        self.members = planned.members[cohorts]
        self.here: NDArray[np.bool_] = np.ones(len(cohorts), np.bool_)
        first = planned.cohorts[cohorts[0]].row
        self.rows = rows[first : first + len(cohorts)]
        self.which: NDArray[np.intp] = np.zeros(len(cohorts), np.intp)
        self.known: _Known | None = None

    def recall(
        self,
        counts: NDArray[np.int64],
        rows: NDArray[np.floating[Any]],
        hyper: Sequence[Hyperparameters],
        factor: float,
    ) -> NDArray[np.intp]:
        """Write the rows that are known; the places of the others."""
        known = self.known
        if known is None or known.hyper is not hyper or known.factor != factor or not len(known.counts):
            return np.arange(len(counts))
        at = np.minimum(known.counts.searchsorted(counts), len(known.counts) - 1)
        found = known.counts[at] == counts
        rows[:-1][found] = known.rows[at[found]]
        return np.flatnonzero(~found)


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
