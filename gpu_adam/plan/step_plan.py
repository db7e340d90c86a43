"""A plan with its tables, and what changes in them from step to step: where gradients lie, and which of them there are.

Nothing is on a device: what has changed is told, for an engine to send.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..device import Device
from ..kernels.rules.rule import Rule
from .cohorts import Cohort, Mode, Record
from .launches import Launch, Plan, SparseSum
from .presence import Presence
from .prologue import Prologue, SettingsLayout


@dataclass(frozen=True, eq=False)
class Part:
    """What a step runs on one device.

    Attributes:
        device: Which one.
        sums: The sums of sparse gradients, which come first.
        prologue: What comes next; ``None`` where the host knows the coefficients.
        launches: The updates.
    """

    device: Device
    sums: tuple[SparseSum, ...]
    prologue: Prologue | None
    launches: tuple[Launch, ...]


@dataclass(frozen=True, eq=False)
class PointerRow:
    """A table's row of gradients' pointers.

    Attributes:
        part, launch: Whose table; the launch is ``None`` for the prologue.
        pointers: The row.
        members: For each entry the number of its parameter.
        offsets: What is taken off the gradient's address.
    """

    part: int
    launch: int | None
    pointers: NDArray[np.int64]
    members: NDArray[np.intp]
    offsets: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class StepPlan:
    """A plan, its tables, and what else a step goes by as long as it holds.

    Attributes:
        mode: How the step comes to its coefficients.
        parts: What runs on each device.
        members: The numbers of the parameters that it is made for.
        may_rest: Whether any of them may be absent from a step: each is a cohort of its own then.
        cohorts: Which of them share their coefficients.
        cohort_of: For each of ``members`` the number of its cohort.
        records: What the cohorts' coefficients are computed from.
        record_of: For each cohort the number of its record.
        layout: Of the settings.
        rules: The rule of each group that has members.
    """

    mode: Mode
    parts: tuple[Part, ...]
    members: NDArray[np.intp]
    may_rest: bool
    cohorts: tuple[Cohort, ...]
    cohort_of: NDArray[np.intp]
    records: tuple[Record, ...]
    record_of: NDArray[np.intp]
    layout: SettingsLayout
    rules: Mapping[int, Rule]
    _plan: Plan
    _presence: Presence
    _rows: tuple[PointerRow, ...]
    _rebindable: NDArray[np.bool_]

    @property
    def plan(self) -> Plan:
        """All that runs, for everybody to look at."""
        return self._plan.without(set(self.members[~self.present[self.members]].tolist()))

    @property
    def present(self) -> NDArray[np.bool_]:
        """For each parameter whether the step updates it."""
        return self._presence.present

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The ranges of slots whose sums of squares are asked for."""
        return self._presence.ranges

    @property
    def is_flat(self) -> bool:
        """Whether every update is of the flat family."""
        return all(launch.table is None for launch in self._plan.launches)

    def counts(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The cohorts' step counts, by those of all parameters."""
        return steps[[cohort.members[0] for cohort in self.cohorts]]

    def is_of(self, present: NDArray[np.bool_]) -> bool:
        """Whether a step as the last one updates these parameters and no others."""
        return present is self.present or not (present != self.present).any()

    def takes(self, present: NDArray[np.bool_]) -> bool:
        """Whether a step may update these parameters and no others."""
        if self.is_of(present):
            return True
        # Without any nothing runs at all: no loss scaler hears of the step.
        return self.may_rest and bool(present.any()) and self._presence.covers(present)

    def take(self, present: NDArray[np.bool_]) -> None:
        """Update these parameters from the next step on, as `takes` says that it may."""
        self._presence.take(present)

    def rebind(self, moved: Sequence[int], addresses: NDArray[np.int64]) -> list[tuple[int, int | None]] | None:
        """Write new addresses of gradients into the tables.

        Args:
            moved: The numbers of the parameters whose gradients have moved.
            addresses: The addresses of all parameters' gradients.

        Returns:
            The parts and the launches whose pointers have changed, which the devices do not know yet; the launch is ``None`` for the
            prologue. ``None`` where another plan is needed, since a gradient has left its bucket; nothing has changed then.
        """
        if not self._rebindable[moved].all():
            return None
        changed = []
        for row in self._rows:
            pointers = addresses[row.members] - row.offsets
            if not np.array_equal(pointers, row.pointers):
                row.pointers[:] = pointers
                changed.append((row.part, row.launch))
        return changed
