"""What graphs of the caller's own go on reading after the optimizer's plan has changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..rules.algorithm import Hyperparameters
from .counts import SharedCounts
from .scaling import Scaling
from .schedule import Schedule
from .settings import Limits


class Captures:
    """The schedules of the past whose steps a caller has captured: they live as long as the optimizer.

    Such a graph updates the parameters that it updated, by the rule and the gradients that it was captured with. Where the cohorts are
    still the same, it counts its steps where the optimizer's own steps do. Where they are not, because a parameter had no gradient for a
    while, it has a count of its own: its replays are added to the parameters' counts when the optimizer looks (`collect`), and it goes on
    from all steps that were made until then (`tell`).
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Schedule, Scaling]] = []
        self._counts: list[SharedCounts] = []

    def keep(self, schedule: Schedule, scaling: Scaling) -> None:
        """Keep a schedule that was captured, and what its settings point to.

        Args:
            schedule: One that the optimizer steps by no longer.
            scaling: How the gradients of its last step were scaled.
        """
        self._kept.append((schedule, scaling))
        counts = schedule.shared_counts
        assert counts is not None
        if counts not in self._counts:
            counts.is_captured = True
            self._counts.append(counts)

    def counts_for(self, schedule: Schedule) -> SharedCounts:
        """Where a new schedule on one device counts its steps."""
        cohorts = schedule.cohorts
        for counts in self._counts:
            if counts.fits(cohorts):
                return counts
        ((device, engine),) = schedule.engines.items()
        return SharedCounts(engine, device, len(cohorts))

    def collect(self, steps: NDArray[np.int64]) -> bool:
        """Add the steps that replays have made since they were last looked at, for which it waits.

        Args:
            steps: The parameters' step counts.

        Returns:
            Whether there were any.
        """
        found = False
        for counts in self._counts:
            found |= counts.collect(steps)
        return found

    def tell(self, steps: NDArray[np.int64]) -> None:
        """Have all replays from now on go on from these step counts."""
        for counts in self._counts:
            counts.tell(steps)

    def prepare(
        self, steps: NDArray[np.int64], hyperparameters: Sequence[Hyperparameters], limits: Limits
    ) -> list[Schedule]:
        """Take up what was changed in the groups, as `Schedule.prepare` does.

        Returns:
            The schedules whose rule is still the one that was captured.
        """
        fitting = [(schedule, scaling) for schedule, scaling in self._kept if schedule.fits(hyperparameters)]
        for schedule, scaling in fitting:
            schedule.prepare(steps, hyperparameters, scaling, limits, wait=True)
        return [schedule for schedule, _ in fitting]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._kept)
