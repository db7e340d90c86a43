"""What a step goes through between its arguments and its launches, and what of it is kept for the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .algorithm import Hyperparameters
from .control import Control
from .gradients import Gradients
from .hyperparameters import Averaging
from .parameters import Residence
from .scaling import UNSCALED, Scaling
from .schedule import Mode, Schedule, current_stream
from .settings import Limits
from .state import Placed


class Stepper:
    """The parameters as they lie now, the last step's gradients and its schedule.

    Everything here follows from the parameters and is found again: an optimizer whose parameters or state have changed makes a new one.

    Attributes:
        params: The parameters.
        steps: Their step counts, as far as the host knows them; see `settle`.
        schedule: The last step's; ``None`` before the first, and after a change.
        scaling: How the last step's gradients were scaled.
        residence: Where the parameters were seen.
    """

    def __init__(
        self,
        params: Sequence[Placed],
        steps: NDArray[np.int64],
        averaging: Averaging,
        control: Control,
        norms: int,
        *,
        pack: bool,
        capturable: bool,
    ) -> None:
        self.params = params
        self.steps = steps
        self.schedule: Schedule | None = None
        self.scaling: Scaling = UNSCALED
        self._averaging = averaging
        self._control = control
        self._norms = norms
        self._pack = pack
        self._capturable = capturable
        self._reset()

    @cached_property
    def _gradients(self) -> Gradients:
        # Made when they are looked at: groups that are added one by one would each make all anew.
        return self.fresh_gradients()

    def _reset(self) -> None:
        vars(self).pop("_gradients", None)
        self._seen: Sequence[Any] | None = None
        self.residence = Residence(self.params)
        gpus = {one.ref.device: one for one in self.params if one.ref.device.kind != "cpu"}
        self._lanes = [(one.state.engine, device, one.ref.family) for device, one in gpus.items()]

    def fresh_gradients(self) -> Gradients:
        """Of the same parameters, none seen yet."""
        no_rows = "capturable=True" if self._capturable else "an average of the parameters" if self._averaging else ""
        return Gradients(self.params, no_rows)

    def check_gradients(self, arrays: Sequence[Any]) -> None:
        """Raise what a step with these gradients would raise."""
        self._gradients.check(arrays)

    def look_again(self) -> None:
        """Take no gradient for one that was seen."""
        self._seen = None

    def is_captured(self, stream: int | None) -> bool:
        """Whether the step is being captured in a graph.

        Raises:
            RuntimeError: If it cannot be.
        """
        if len(self._lanes) > 1 and stream is not None:
            raise ValueError("stream= is for parameters on one device: make it each device's current stream instead")
        capturing = False
        for engine, device, family in self._lanes:
            capturing |= engine.capturing(device, current_stream(family, device) if stream is None else stream)
        if capturing and not self._capturable:
            raise RuntimeError(
                "step() cannot be captured in a CUDA graph, which would repeat this step's coefficients for ever: "
                "make the optimizer with capturable=True"
            )
        if capturing and (self.schedule is None or len(self._lanes) > 1):
            raise RuntimeError(
                "a step is captured after one has run, which compiles the kernels, and on one device only: "
                "call step() once before the capture"
            )
        return capturing

    def follow_memory(self) -> None:
        """Take up what was done to the parameters' memory since the last step."""
        moved = self.residence.moved()
        if moved:
            self.settle()
            for placed, ref in moved:
                placed.ref = ref
                placed.reread_master()
            self._reset()
        for placed in self.residence.written():
            placed.reread_master()

    def prepare(
        self,
        arrays: Sequence[Any],
        keep: bool,
        hyper: Sequence[Hyperparameters],
        scaling: Scaling,
        limits: Limits,
        mode: Mode,
        stream: int | None,
        capturing: bool,
    ) -> Schedule:
        """Everything but the launches; what is wrong with a gradient or a schedule is raised here.

        Args:
            arrays: One gradient or ``None`` for each parameter.
            keep: Whether the same list stands for the same arrays in the next step.
            hyper: The groups' hyperparameters.
            scaling: How the gradients are scaled.
            limits: What is done about their norm.
            mode: How the step comes to its coefficients.
            stream: The stream; ``None`` for the library's current one.
            capturing: Whether it is being captured.
        """
        if arrays is not self._seen:
            self._take_gradients(arrays, keep, stream, capturing)
        schedule = self._scheduled(hyper, mode)
        if self._gradients.has_rows and stream is not None:
            raise ValueError("gradients of rows are sorted on the current stream: make stream= the current one")
        if not capturing:
            schedule.prepare(self.steps, hyper, scaling, limits, stream)
            self.scaling = scaling
        elif scaling != self.scaling:
            raise RuntimeError(
                "the gradients of a captured step are scaled otherwise than those of the step before: "
                "call step() once with the same grad_scale before the capture"
            )
        if self._gradients.has_rows:
            schedule.sum_rows()
        return schedule

    def prepare_replay(self, hyper: Sequence[Hyperparameters], limits: Limits, stream: int | None) -> None:
        """Send the hyperparameters of now to the device, which has run steps without the host."""
        if self.schedule is not None:
            self.schedule.prepare(self.steps, hyper, self.scaling, limits, stream, wait=True)

    def _take_gradients(self, arrays: Sequence[Any], keep: bool, stream: int | None, capturing: bool) -> None:
        self._seen = None
        reshaped, moved = self._gradients.update(arrays)
        if self.schedule is not None:
            # Gradients that have come back into the buckets deserve the flat kernels again.
            home = not self._pack or not keep or self.schedule.is_flat
            fits = False
            try:
                fits = not reshaped and home and (not moved or self.schedule.rebind(moved, stream))
                if not fits and capturing:
                    raise RuntimeError(
                        "the gradients of a captured step differ from those of the step before, which compiled it: "
                        "call step() once with gradients like these before the capture"
                    )
            except Exception:
                # The next step sees all gradients as new ones, and makes a new schedule.
                self._gradients = self.fresh_gradients()
                raise
            if not fits:
                self.settle()
        if keep and (self._pack or self._gradients.settled):
            self._seen = arrays

    def _scheduled(self, hyper: Sequence[Hyperparameters], mode: Mode) -> Schedule:
        if self.schedule is not None and self.schedule.mode != mode:
            self.settle()
        if self.schedule is None:
            self._begin_states(hyper)
            schedule = Schedule(self.params, self._gradients, self.steps, hyper, self._averaging, mode)
            schedule.load(self._control.ensure(schedule.engines, self._norms) if mode.on_device else {})
            self.schedule = schedule
        return self.schedule

    def _begin_states(self, hyper: Sequence[Hyperparameters]) -> None:
        """Have room for what the rules keep; of parameters that were never stepped, begin it."""
        kept = {
            (placed.state, name)
            for placed in self.params
            for name in hyper[placed.group].initial
            if placed.state.has(name)
        }
        for placed in self.params:
            own = hyper[placed.group]
            fresh = self.steps[placed.index] == 0
            if fresh:
                # The parameter may have been loaded or initialised since; its master weight has nothing to lose yet.
                placed.reread_master()
            if self._gradients.operand(placed.index) is None:
                continue
            placed.state.ensure(own.rule.states)
            for name, value in own.initial.items() if fresh else ():
                # New memory is zero.
                if value != 0.0 or (placed.state, name) in kept:
                    placed.write(name, np.full(placed.ref.shape, value, placed.ref.format.working.dtype))

    def run(self, schedule: Schedule, launch: Callable[[], None]) -> None:
        """Launch a step that was prepared, and count it."""
        if schedule.mode.on_device:
            launch()
        else:
            # Counted first: an interrupt is delivered when the kernels are done, and must not find them uncounted.
            self.steps[schedule.active] += 1
            try:
                launch()
            except Exception:
                self.steps[schedule.active] -= 1
                raise
        self.residence.stepped(schedule.tensors)

    def settle(self) -> None:
        """Take the step counts over from the device, for which it waits, and forget the schedule."""
        schedule, self.schedule = self.schedule, None
        if schedule is not None:
            schedule.settle(self.steps)

    def read_steps(self) -> NDArray[np.int64]:
        """The parameters' step counts, for which it waits where the device keeps them."""
        if self.schedule is not None:
            self.schedule.settle(self.steps)
        return self.steps
