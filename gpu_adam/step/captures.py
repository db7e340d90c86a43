"""What graphs of the caller's own go on reading after the optimizer's plan has changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..device import Device
from ..engines import Engine
from ..plan.cohorts import Cohort
from .counts import SharedCounts
from .executor import Executor
from .request import Request
from .scaling import Scaling


class Captures:
    """The executors of the past whose steps a caller has captured: they live as long as the optimizer.

    Such a graph updates the parameters that it updated, by the rule and the gradients that it was captured with. Where the cohorts are
    still the same, it counts its steps where the optimizer's own steps do. Where they are not, because a parameter had no gradient for a
    while, it has a count of its own: its replays are added to the parameters' counts when the optimizer looks (`collect`), and it goes on
    from all steps that were made until then (`tell`).
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Executor, Scaling]] = []
        self._counts: list[SharedCounts] = []

    def keep(self, executor: Executor, scaling: Scaling) -> None:
        """Keep what runs a captured step, and what its settings point to.

        Args:
            executor: One that the optimizer steps by no longer.
            scaling: How the gradients of its last step were scaled.
        """
        self._kept.append((executor, scaling))
        counts = executor.shared_counts
        assert counts is not None
        if counts not in self._counts:
            counts.is_captured = True
            self._counts.append(counts)

    def counts_for(self, cohorts: Sequence[Cohort], device: Device, engine: Engine) -> SharedCounts:
        """Where a new plan with these cohorts, on one device, counts its steps."""
        members = [cohort.members for cohort in cohorts]
        for counts in self._counts:
            if counts.fits(members):
                return counts
        return SharedCounts(engine, device, len(members))

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

    def prepare(self, steps: NDArray[np.int64], request: Request) -> list[Executor]:
        """Have the next replays' coefficients be those that are asked for, scaled as the captured steps were.

        Returns:
            Those whose rule is still the one that was captured.
        """
        fitting = [(executor, scaling) for executor, scaling in self._kept if executor.fits(request.hyper)]
        for executor, scaling in fitting:
            executor.coefficients.prepare(request._replace(scaling=scaling), steps)
        return [executor for executor, _ in fitting]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._kept)
