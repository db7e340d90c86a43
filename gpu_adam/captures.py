"""What graphs of the caller's own go on reading after the optimizer's plan has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .algorithm import Hyperparameters
from .scaling import Scaling
from .schedule import Schedule
from .settings import Limits


@dataclass
class _Kept:
    """A schedule that was captured.

    Attributes:
        schedule: It, with all that is on the device.
        scaling: What its settings point to.
        counts: Its cohorts' step counts as they were last seen or set.
    """

    schedule: Schedule
    scaling: Scaling
    counts: NDArray[np.int64]


class Captures:
    """The schedules of the past whose steps a caller has captured: they live as long as the optimizer.

    Such a graph updates the parameters that it updated, by the rule and the gradients that it was captured with. It counts its own steps.
    Its replays are added to the parameters' counts when the optimizer looks (`collect`), and it goes on from all steps that were made until
    then (`tell`): when the plan changes, when a state is saved or loaded, and before a replay that is prepared.
    """

    def __init__(self) -> None:
        self._kept: list[_Kept] = []

    def keep(self, schedule: Schedule, scaling: Scaling) -> None:
        """Keep a schedule that was captured.

        Args:
            schedule: One that the optimizer steps by no longer.
            scaling: How the gradients of its last step were scaled.
        """
        self._kept.append(_Kept(schedule, scaling, schedule.counts()))

    def collect(self, steps: NDArray[np.int64]) -> bool:
        """Add the steps that replays have made since they were last looked at, for which it waits.

        Args:
            steps: The parameters' step counts.

        Returns:
            Whether there were any.
        """
        found = False
        for kept in self._kept:
            counts = kept.schedule.counts()
            if not np.array_equal(counts, kept.counts):
                found = True
                steps[kept.schedule.members] += kept.schedule.of_members(counts - kept.counts)
                kept.counts = counts
        return found

    def tell(self, steps: NDArray[np.int64]) -> None:
        """Have all replays from now on go on from these step counts."""
        for kept in self._kept:
            counts = kept.schedule.counts_of(steps)
            if not np.array_equal(counts, kept.counts):
                kept.schedule.set_counts(counts)
                kept.counts = counts

    def prepare(
        self, steps: NDArray[np.int64], hyperparameters: Sequence[Hyperparameters], limits: Limits, stream: int | None
    ) -> bool:
        """Send what was changed in the groups, as `Schedule.prepare` does.

        Returns:
            Whether there is any schedule whose rule is still the one that was captured.
        """
        fitting = [kept for kept in self._kept if kept.schedule.fits(hyperparameters)]
        for kept in fitting:
            kept.schedule.prepare(steps, hyperparameters, kept.scaling, limits, stream, wait=True)
        return bool(fitting)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._kept)
