"""Where a step's coefficients come from: two objects behind one protocol.

The *host* computes them where it knows the step counts and how the gradients are scaled. Where it does not, the *device* computes them, in
the prologue, from settings that are sent when they change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..casting import store_row
from ..checks import MOST_STEPS
from ..engines import CoefficientRows, Program, Stage
from ..kernels.abi import ROW_WORDS
from ..plan.prologue import WINDOW_ENTRIES
from ..plan.step_plan import StepPlan
from ..rules.algorithm import Hyperparameters, coefficients, refuse_infinite
from ..rules.hyperparameters import Asked, Averaging
from .counts import SharedCounts
from .request import Request
from .settings import Settings

_NO_MORE_STEPS = f"a parameter has made {MOST_STEPS} steps, the most that can be saved: load a state of fewer steps"


class Coefficients(Protocol):
    """What a plan's launches multiply by, from step to step."""

    rows: CoefficientRows | None
    """What the host has computed, which a run takes along; ``None`` where the device computes."""

    count: Stage
    """Counts a step in the parameters' step counts, as a part of its run."""

    def prepare(self, request: Request, steps: NDArray[np.int64]) -> None:
        """Have the next step's coefficients be those that are asked for.

        Args:
            request: The step.
            steps: The parameters' step counts, as far as the host knows them.

        Raises:
            TypeError, ValueError: If a hyperparameter given as a function returns what is not allowed; nothing has changed then.
        """

    def take(self, present: NDArray[np.bool_]) -> None:
        """Have the next step update these parameters: of a plan whose members may rest."""

    def send(self, streams: Sequence[int | None]) -> None:
        """Bring to the devices what they do not know yet, each on its stream."""

    def sync(self, steps: NDArray[np.int64]) -> None:
        """Write the parameters' step counts, for which it waits where the device keeps them."""

    def tell(self, steps: NDArray[np.int64]) -> None:
        """Go on from these step counts of the parameters, which graphs have changed."""


class HostCoefficients:
    """Computed by the host in every step; see `Coefficients`."""

    def __init__(
        self,
        planned: StepPlan,
        steps: NDArray[np.int64],
        hyper: Sequence[Hyperparameters],
        averaging: Averaging,
    ) -> None:
        self._planned = planned
        self._averaging = averaging
        self._hyper = hyper
        self._records = self._fresh_records(hyper)
        self._checked: Sequence[Hyperparameters] | None = None
        counts: dict[str, int] = {}
        for cohort in planned.cohorts:
            counts[cohort.working.name] = cohort.row + 1
        dtypes = {working.name: working.dtype for _, working in planned.records}
        self._rows = {name: np.zeros((count, ROW_WORDS), dtypes[name]) for name, count in counts.items()}
        self.rows: CoefficientRows | None = self._rows
        self._increments: NDArray[np.int64] = np.zeros(len(steps), np.int64)
        self._increments[planned.members] = 1
        self.count: Stage = [(np.add, [(steps, self._increments, steps)])]

    def _fresh_records(self, hyper: Sequence[Hyperparameters]) -> list[list[float]]:
        return [hyper[group].record(self._averaging, working) for group, working in self._planned.records]

    def prepare(self, request: Request, steps: NDArray[np.int64]) -> None:
        """Compute them."""
        if request.hyper is not self._hyper:
            # In this order: where an exception comes in between, it is done again.
            self._records = self._fresh_records(request.hyper)
            self._hyper = request.hyper
        self._compute(steps, 1.0 / request.scaling.scale, {})
        self._checked = request.hyper

    def _compute(self, steps: NDArray[np.int64], factor: float, asked: Asked) -> None:
        """Compute every cohort's row; ``asked`` is what functions have returned already in this step."""
        for cohort, record in zip(self._planned.cohorts, self._planned.record_of.tolist(), strict=True):
            t = int(steps[cohort.members[0]]) + 1
            self._compute_row(record, t, factor, asked, self._rows[cohort.working.name], cohort.row)

    def _compute_row(
        self, number: int, t: int, factor: float, asked: Asked, rows: NDArray[np.floating[Any]], place: int
    ) -> None:
        """Compute the row of step ``t`` by a record, into ``rows[place]``."""
        if t > MOST_STEPS:
            raise ValueError(_NO_MORE_STEPS)
        group, working = self._planned.records[number]
        hyper, where = self._hyper[group], f"group {group}"
        row = coefficients(hyper, self._records[number], t, factor, where, asked)
        # Numbers that follow no schedule give the largest coefficients at the smallest t.
        if hyper.is_scheduled or self._hyper is not self._checked:
            refuse_infinite(row, hyper, working, t, where)
        try:
            store_row(rows, place, row)
        except OverflowError:
            # A rule of the user's own, whose coefficients grow.
            refuse_infinite(row, hyper, working, t, where)
            raise

    def take(self, present: NDArray[np.bool_]) -> None:
        """Count the steps of these parameters."""
        self._increments[:] = present

    def send(self, streams: Sequence[int | None]) -> None:
        """Nothing to do: a run takes them along."""

    def sync(self, steps: NDArray[np.int64]) -> None:
        """Nothing to do: the host counts."""

    def tell(self, steps: NDArray[np.int64]) -> None:
        """Nothing to do: the host counts."""


class DeviceCoefficients:
    """Computed by the prologue; see `Coefficients`. All devices compute alike, so any of them can be asked for the step counts.

    Args:
        planned: The plan.
        programs: The program of each device.
        steps: The parameters' step counts.
        averaging: Which average of the parameters is kept.
        shared: Where the steps are counted, if other plans count there too.
    """

    def __init__(
        self,
        planned: StepPlan,
        programs: Sequence[Program],
        steps: NDArray[np.int64],
        averaging: Averaging,
        shared: SharedCounts | None,
    ) -> None:
        self._planned = planned
        self._programs = programs
        self._averaging = averaging
        self._shared = shared
        self._settings = Settings(planned.cohorts, planned.ranges, planned.layout)
        self._is_unsent = False
        self._checked: Sequence[Hyperparameters] | None = None
        self._left = _left_of(planned.counts(steps))
        self.rows: CoefficientRows | None = None
        # The prologue counts.
        self.count: Stage = ()

    def prepare(self, request: Request, steps: NDArray[np.int64]) -> None:
        """Take up what the prologue computes them from."""
        self._count_down()
        if request.hyper is not self._checked:
            self._check(request.hyper, steps)
        if not self._settings.hold(request.hyper, request.scaling, request.limits):
            # Said first, and until they are sent: an exception may come in between.
            self._is_unsent = True
            self._settings.update(request.hyper, self._averaging, request.scaling, request.limits)
        if self._settings.is_scheduled and self._programs:
            # Nobody says how often a graph that counts there was replayed.
            waits = request.follows_replays or (self._shared is not None and self._shared.is_captured)
            counts, behind = (self._programs[0].counts(), 0) if waits else self._programs[0].recent_counts()
            if behind >= WINDOW_ENTRIES:
                counts, behind = self._programs[0].counts(), 0
            self._is_unsent = True
            self._settings.update_windows(counts, behind)

    def _count_down(self) -> None:
        """Refuse a step beyond the last that is counted; the device is asked when that may be near."""
        if self._left < 1 and self._programs:
            self._left = _left_of(self._programs[0].counts())
        if self._left < 1:
            raise ValueError(_NO_MORE_STEPS)
        self._left -= 1

    def _check(self, hyper: Sequence[Hyperparameters], steps: NDArray[np.int64]) -> None:
        """Refuse what the host can see to overflow in the next step, as `HostCoefficients` does; the device saturates."""
        planned = self._planned
        counts = planned.counts(steps)
        for number, (group, working) in enumerate(planned.records):
            own = hyper[group]
            if not own.is_scheduled:
                # Such numbers give the largest coefficients at the smallest t.
                t, where = int(counts[planned.record_of == number].min()) + 1, f"group {group}"
                record = own.record(self._averaging, working)
                refuse_infinite(coefficients(own, record, t, 1.0, where), own, working, t, where)
        self._checked = hyper

    def take(self, present: NDArray[np.bool_]) -> None:
        """Have the cohorts of all other parameters rest."""
        # Said first, and until they are sent: an exception may come in between.
        self._is_unsent = True
        self._settings.rest(~present[self._planned.members], self._planned.ranges)

    def send(self, streams: Sequence[int | None]) -> None:
        """Bring the settings to the devices where they have changed."""
        if self._is_unsent:
            for program, stream in zip(self._programs, streams, strict=True):
                program.instruct(self._settings.words, stream)
            self._is_unsent = False

    def sync(self, steps: NDArray[np.int64]) -> None:
        """Read the step counts back."""
        if self._shared is not None:
            self._shared.collect(steps)
        elif self._programs:
            steps[self._planned.members] = self._programs[0].counts()[self._planned.cohort_of]

    def tell(self, steps: NDArray[np.int64]) -> None:
        """Go on from these step counts, where they are shared with graphs."""
        if self._shared is not None:
            self._shared.tell(steps)
            for program in self._programs:
                program.counts()  # so that the host knows them as well


def _left_of(counts: NDArray[np.int64]) -> int:
    """Steps that may still be made."""
    return MOST_STEPS - int(counts.max(initial=0))
