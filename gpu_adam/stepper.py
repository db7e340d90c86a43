"""What a step goes through between its arguments and its launches, and what of it is kept for the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .algorithm import Hyperparameters
from .arrays import Lifetime, to_host
from .control import Control
from .gradients import Gradients
from .hyperparameters import Averaging
from .parameters import Residence
from .placement import place
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
        self._first: list[Placed] = []
        self._norms = norms
        self._pack = pack
        self._capturable = capturable
        self._reset()

    def _reset(self) -> None:
        self._gradients = self.fresh_gradients()
        self.residence = Residence(self.params)
        gpus = {one.ref.device: one for one in self.params if one.ref.device.kind != "cpu"}
        self._lanes = [(one.engine, device, one.ref.family) for device, one in gpus.items()]

    def fresh_gradients(self, params: Sequence[Placed] | None = None) -> Gradients:
        """Of the same parameters, or others like them, none seen yet."""
        no_rows = "capturable=True" if self._capturable else "an average of the parameters" if self._averaging else ""
        return Gradients(self.params if params is None else params, no_rows)

    def check_gradients(self, arrays: Sequence[Any]) -> None:
        """Raise what a step with these gradients would raise."""
        self._gradients.check(arrays)

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
        written = self.residence.written()
        if moved:
            self.settle()
            for placed, ref in moved:
                placed.ref = ref
            self._reset()
        self._reread([*written, *(placed for placed, _ in moved)])

    def _reread(self, params: Iterable[Placed]) -> None:
        for placed in params:
            if not placed.loaded:  # else right before its next step
                placed.reread_master()

    def take_up(self) -> None:
        """As `follow_memory`, for somebody who reads the state.

        Where a parameter is no longer what the optimizer was made for, the state stays that of what it was, and a step says what has
        become of it.
        """
        with suppress(TypeError, ValueError):
            self.follow_memory()
            self.begin_averages()

    def begin_averages(self) -> None:
        """Have the averages that a loaded state lacks be the parameters as they are now."""
        for placed in self.params:
            placed.begin_average()

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
        self._take_gradients(arrays, keep, stream, capturing)
        schedule = self._scheduled(hyper, mode)
        if self._gradients.has_rows and stream is not None:
            raise ValueError("gradients of rows are sorted on the current stream: make stream= the current one")
        if not capturing:
            schedule.prepare(self.steps, hyper, scaling, limits, stream)
            self.scaling = scaling
        elif self._first:
            raise RuntimeError(
                "parameters whose state was loaded are read before they are stepped, which cannot be captured: "
                "call step() once before the capture"
            )
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
        again = self._gradients.holds(arrays)
        lifetime = Lifetime.GIVEN if not keep else Lifetime.OWN if self._pack else Lifetime.HELD
        reshaped, moved = self._gradients.update(arrays, lifetime)
        if self.schedule is not None and not (again and not reshaped and not moved):
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

    def _scheduled(self, hyper: Sequence[Hyperparameters], mode: Mode) -> Schedule:
        if self.schedule is not None and self.schedule.mode != mode:
            self.settle()
        if self.schedule is None:
            self._begin_states(hyper)
            schedule = Schedule(self.params, self._gradients, self.steps, hyper, self._averaging, mode)
            schedule.load(self._control.ensure(schedule.engines, self._norms) if mode.on_device else {})
            active = (placed for placed in self.params if self._gradients.operand(placed.index) is not None)
            self._first = [placed for placed in active if placed.loaded]
            self.schedule = schedule
        return self.schedule

    def _begin_states(self, hyper: Sequence[Hyperparameters]) -> None:
        """Have room for what the rules keep; of parameters that were never stepped, begin it."""
        active = [placed for placed in self.params if self._gradients.operand(placed.index) is not None]
        place([placed for placed in active if placed.place is None])
        kept = {(placed.state, name) for placed in active for name in hyper[placed.group].initial if placed.has(name)}
        for placed in active:
            own = hyper[placed.group]
            copies = [name for name, wanted in (("master", placed.master), ("average", self._averaging)) if wanted]
            placed.state.ensure((*own.rule.states, *copies))
            if self.steps[placed.index]:
                continue
            # Begun now and not earlier: the parameter may have been loaded or initialised since it was handed over.
            for name in copies:
                placed.write(name, to_host(placed.ref.array))
            for name, value in own.initial.items():
                # New memory is zero.
                if value != 0.0 or (placed.state, name) in kept:
                    placed.write(name, np.full(placed.ref.shape, value, placed.ref.format.working.dtype))

    def run(self, schedule: Schedule, launch: Callable[[], None]) -> None:
        """Launch a step that was prepared, and count it."""
        for placed in self._first:
            placed.reread_master()
            placed.begin_average()
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
        while self._first:
            placed = self._first.pop()
            placed.loaded = placed.lacks_average = False

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
