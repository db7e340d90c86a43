"""A plan on its devices: compiled, its tables uploaded, run step after step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import copying_stream, current_stream
from ..device import Device
from ..engines import Memory, Program, Stage
from ..kernels.abi import ROLES
from ..plan.step_plan import StepPlan
from ..rules.algorithm import Hyperparameters
from ..rules.hyperparameters import Averaging
from ..state.parameter import Placed, states_of
from .coefficients import Coefficients, DeviceCoefficients, HostCoefficients
from .counts import SharedCounts
from .gradients import Gradients
from .resting import RestingHostCoefficients

_GRAD = ROLES.index("grad")


class Executor:
    """What runs a plan's steps, while no gradient changes its format or strides; or comes or goes, unless its members may rest.

    Args:
        planned: The plan.
        params: The parameters of the optimizer.
        gradients: Their gradients.
        steps: Their step counts.
        hyper: The groups' hyperparameters.
        averaging: Which average of the parameters is kept.
        controls: The control words of each device.
        shared: Where the steps are counted; ``None`` for memory of the programs' own.

    Attributes:
        planned: The plan.
        coefficients: What it multiplies by.
        shared_counts: Where the steps are counted, if other plans count there too.
        is_native: Whether `run` is one call of C code from its first change on, so that no handler of a signal comes in between.
        like: The array of a parameter that is updated; ``None`` where there is none.
        tensors: Those that are torch's and count their versions, of the parameters that the step updates.
        sums: Whether there are sparse gradients, to be summed first.
    """

    def __init__(
        self,
        planned: StepPlan,
        params: Sequence[Placed],
        gradients: Gradients,
        steps: NDArray[np.int64],
        hyper: Sequence[Hyperparameters],
        averaging: Averaging,
        controls: Mapping[Device, Memory],
        shared: SharedCounts | None,
    ) -> None:
        self.planned = planned
        self._gradients = gradients
        self.shared_counts = shared
        active = [params[index] for index in planned.members]
        self.like = active[0].ref if active else None
        firsts = {placed.ref.device: placed for placed in reversed(active)}
        counts, memory = planned.counts(steps), None if shared is None else shared.memory
        # Where each part runs: on the current stream of a library on a device.
        self._places = [(firsts[part.device].ref.library, part.device) for part in planned.parts]
        self._programs: list[Program] = [
            firsts[part.device].engine.load(
                part.launches, part.device, part.prologue, controls.get(part.device), counts, memory
            )
            for part in planned.parts
        ]
        if shared is not None:
            shared.take([cohort.members for cohort in planned.cohorts], counts)
        self.is_native = len(self._programs) <= 1 and all(program.is_native for program in self._programs)
        self.coefficients: Coefficients
        if planned.mode.on_device:
            self.coefficients = DeviceCoefficients(planned, self._programs, steps, averaging, shared)
        else:
            host = RestingHostCoefficients if planned.may_rest else HostCoefficients
            self.coefficients = host(planned, steps, hyper, averaging)
        # The launches whose gradients' pointers a device does not know yet.
        self._moved: dict[tuple[int, int | None], None] = {}
        self._is_other_set = False
        refs = [placed.ref for placed in active]
        counting = [k for k, ref in enumerate(refs) if ref.library.counts_versions(ref.array)]
        self._counting = planned.members[counting]
        self.tensors = self._tensors = tuple(refs[k].array for k in counting)
        self.sums = any(part.sums for part in planned.parts)
        # A graph of the caller's may go on working there when the parameters have got other states.
        self._held = [state.memories for state in states_of(params)]
        if planned.may_rest:
            self._take(gradients.present)

    def follow(self, moved: Sequence[int], *, may_rest: bool = True) -> bool:
        """Take up where these parameters' gradients have moved to, and which there are; the next run brings it to the devices.

        Args:
            moved: The parameters.
            may_rest: Whether others may be there than in the last step.

        Returns:
            Whether it could: a gradient that has left its bucket needs another plan, and so do others than there were, unless members
            may rest and no graph of a caller's goes by the plan.
        """
        present = self._gradients.present
        is_other_set = not self.planned.is_of(present)
        if is_other_set and not (may_rest and self.planned.takes(present) and not self.is_captured):
            return False
        changed = self.planned.rebind(moved, self._gradients.addresses) if len(moved) else []
        if changed is None:
            return False
        self._moved.update(dict.fromkeys(changed))
        if is_other_set:
            self._take(present)
        return True

    def _take(self, present: NDArray[np.bool_]) -> None:
        # Said first, and until it is sent: an exception may come in between.
        self._is_other_set = True
        self.planned.take(present)
        self.coefficients.take(present)
        if self._tensors:
            self.tensors = tuple(compress(self._tensors, present[self._counting].tobytes()))

    def send(self, stream: int | None) -> list[int | None]:
        """Bring to the devices what they do not know yet: the settings, and where gradients have moved to.

        Args:
            stream: The stream; ``None`` for each library's current one.

        Returns:
            The stream of each device.
        """
        streams = [current_stream(*place) if stream is None else stream for place in self._places]
        if self._is_other_set:
            for program, own in zip(self._programs, streams, strict=True):
                program.take(self.planned.present, own)
            self._is_other_set = False
        while self._moved:
            part, launch = next(iter(self._moved))
            self._programs[part].rebind(launch, _GRAD, streams[part])
            del self._moved[part, launch]
        self.coefficients.send(streams)
        return streams

    def run(self, stream: int | None, then: Stage = ()) -> None:
        """Run a step that was prepared, on each device's current stream unless one is given.

        Args:
            stream: The stream.
            then: Functions of C code, called where nothing has failed, as a part of the run.
        """
        streams, programs = self.send(stream), self._programs
        if self.planned.mode.measures and len(programs) > 1:
            for program, own in zip(programs, streams, strict=True):
                program.measure(own)
            for program, own in zip(programs, streams, strict=True):
                program.gather([other for other in programs if other is not program], own)
        rows, last = self.coefficients.rows, len(programs) - 1
        for index, (program, own) in enumerate(zip(programs, streams, strict=True)):
            program.run(rows, own, then if index == last else ())

    def sum_sparse(self) -> None:
        """Sum the sparse gradients where the launches read them."""
        present = self.planned.present
        for place, part in zip(self._places, self.planned.parts, strict=True):
            for one in (one for one in part.sums if present[one.index]):
                self._gradients.sum_sparse(one.index, current_stream(*place))

    def graph(self) -> Callable[[int | None], None]:
        """What `run` launches on the only device, as a graph that is replayed on its current stream unless one is given."""
        (program,) = self._programs
        # What the devices do not know yet could not be sent in a capture that comes next.
        self.send(None)
        launch = program.graph()

        def replay(stream: int | None) -> None:
            launch(*self.send(stream))

        return replay

    def ordered(self) -> AbstractContextManager[Any]:
        """A block: what the arrays' libraries copy in it, each on its stream, comes after the last step and before the next one."""
        stack = ExitStack()
        for program, place in zip(self._programs, self._places, strict=True):
            stack.enter_context(program.ordered(copying_stream(*place)))
        return stack

    def finish(self) -> None:
        """Have the host wait until all steps are done."""
        for program in self._programs:
            program.finish()

    # Of a step that a caller has captured.

    @property
    def is_captured(self) -> bool:
        """Whether a caller's graph may run the plan at any time."""
        return any(program.is_captured for program in self._programs)

    def fits(self, hyper: Sequence[Hyperparameters]) -> bool:
        """Whether these can be sent to it: the compiled rules are still theirs, and for schedules there is room."""
        has_room = not self.planned.mode.on_device or self.planned.layout.windows > 0
        return all(
            hyper[group].rule == rule and (has_room or not hyper[group].is_scheduled)
            for group, rule in self.planned.rules.items()
        )
