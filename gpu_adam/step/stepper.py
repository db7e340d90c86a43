"""What a step goes through between its arguments and its launches, and what of it is kept for the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import ArrayRef, Family, Lifetime, current_stream, to_host
from ..device import Device
from ..engines import Engine, Stage
from ..lazy import cached_property
from ..process.per_thread import PER_THREAD
from ..process.uninterrupted import uninterrupted
from ..rules.algorithm import Hyperparameters
from ..rules.hyperparameters import Averaging
from ..state.parameter import Placed
from ..state.placement import place
from ..state.residence import Residence
from .captures import Captures
from .cohorts import Mode
from .control import Control
from .gradients import Gradients
from .scaling import UNSCALED, Scaling
from .schedule import Schedule
from .settings import Limits

_OTHER_GRADIENTS = (
    "the gradients of a captured step differ from those of the step before, which compiled it: "
    "call step() once with gradients like these before the capture"
)


class Stepper:
    """The parameters as they lie now, the last step's gradients and its schedule.

    Everything here follows from the parameters and is found again: an optimizer whose parameters or state have changed makes a new one.

    Attributes:
        params: The parameters.
        steps: Their step counts, as far as the host knows them; see `settle`.
        schedule: The last step's; ``None`` before the first, and after a change.
        scaling: How the last step's gradients were scaled; released once it is queued, unless something may still read its numbers.
        residence: Where the parameters were seen.
    """

    def __init__(
        self,
        params: Sequence[Placed],
        steps: NDArray[np.int64],
        averaging: Averaging,
        control: Control,
        captures: Captures,
        norms: int,
        *,
        pack: bool,
        capturable: bool,
        residence: Residence | None = None,
    ) -> None:
        self.params = params
        self.steps = steps
        self.schedule: Schedule | None = None
        self.scaling: Scaling = UNSCALED
        self._averaging = averaging
        self._control = control
        self._first: list[Placed] = []
        self._captures = captures
        self._norms = norms
        self._pack = pack
        self._capturable = capturable
        self._keeps_scaling = False
        self.residence = Residence(params) if residence is None else residence

    @cached_property
    def _gradients(self) -> Gradients:
        # Made when they are looked at: groups that are added one by one would each make all anew.
        return self.fresh_gradients()

    def _reset(self) -> None:
        vars(self).pop("_gradients", None)
        vars(self).pop("_lanes", None)
        self.residence = Residence(self.params)

    @cached_property
    def _lanes(self) -> list[tuple[Engine, Device, Family]]:
        gpus = {one.ref.device: one for one in self.params if one.ref.device.kind != "cpu"}
        return [(one.engine, device, one.ref.family) for device, one in gpus.items()]

    @property
    def may_grow(self) -> bool:
        """Whether parameters may be added before what was done to the others is taken up."""
        return self.schedule is None and self.residence.may_grow

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

    def follow_memory(self, capturing: bool = False) -> None:
        """Take up what was done to the parameters' memory since the last step; nothing may have been while a step is captured."""
        moved = self.residence.moved()
        if moved and capturing:
            raise RuntimeError(
                f"{moved[0][0].label} of a captured step lies elsewhere than in the step before, which compiled it: "
                "call step() once before the capture"
            )
        written = self.residence.written()
        if written and capturing:
            raise RuntimeError(
                f"{written[0].label} was written to, and is read before it is stepped, which cannot be captured: "
                "call step() once before the capture"
            )
        if moved or written or self.residence.has_grown:
            uninterrupted(self._take_up_memory, moved, written)

    def _take_up_memory(self, moved: Sequence[tuple[Placed, ArrayRef]], written: Sequence[Placed]) -> None:
        if moved:
            self.settle()
        # Before anything is remembered: what an error comes in between of is still to be done.
        with self.ordered():
            for placed in (*written, *(one for one, _ in moved)):
                # Those whose state was loaded are looked at right before their next step.
                if not placed.loaded:
                    placed.reread_master()
        for placed, ref in moved:
            placed.ref = ref
        if moved or self.residence.has_grown:
            self._reset()
        else:
            self.residence.forget_writes()

    def look(self) -> set[int]:
        """The parameters that were written to since their last step, so that they count and not their master weights.

        For somebody who reads the state. The masters stay as they are: what is written next may be what they round to. Where a parameter
        is no longer what the optimizer was made for, the state is that of what it was, and a step says what has become of it.
        """
        with suppress(TypeError, ValueError):
            moved = self.residence.moved()
            self.begin_averages()
            found = (*self.residence.written(), *(placed for placed, _ in moved))
            # Those whose state was loaded are looked at right before their next step.
            return {placed.index for placed in found if not placed.loaded}
        return set()

    def begin_averages(self) -> None:
        """Have the averages that a loaded state lacks be the parameters as they are now."""
        with self.ordered():
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
        self._take_gradients(arrays, keep, capturing)
        schedule = self._scheduled(hyper, mode, capturing)
        if self._gradients.has_rows and stream is not None:
            raise ValueError("gradients of rows are sorted on the current stream: make stream= the current one")
        if not capturing:
            schedule.prepare(self.steps, hyper, scaling, limits)
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
        self.scaling = scaling
        # On a stream that is not the library's own, it would give freed memory out again too early.
        self._keeps_scaling = stream is not None
        if self._gradients.has_rows:
            uninterrupted(schedule.sum_rows)
        return schedule

    def prepare_replay(self, hyper: Sequence[Hyperparameters], limits: Limits, stream: int | None) -> bool:
        """Send the hyperparameters of now to the device, which has run steps without the host, also for graphs of earlier plans.

        Returns:
            Whether there is a graph that they can be sent to.
        """
        schedules = self._captures.prepare(self.read_steps(), hyper, limits) if self._captures else []
        if self.schedule is not None:
            self.schedule.prepare(self.steps, hyper, self.scaling, limits, wait=True)
            schedules.append(self.schedule)
        for schedule in schedules:
            _on_stream(stream, partial(schedule.send, stream))
        return bool(schedules)

    def _take_gradients(self, arrays: Sequence[Any], keep: bool, capturing: bool) -> None:
        lifetime = Lifetime.GIVEN if not keep else Lifetime.OWN if self._pack else Lifetime.HELD
        if self._gradients.is_torn and capturing:
            raise RuntimeError(_OTHER_GRADIENTS)
        if self._gradients.is_torn:
            # An exception came before the schedule had what they had: all are seen as new ones, by a new schedule.
            self.settle()
            self._gradients = self.fresh_gradients()
        again = self._gradients.holds(arrays)
        reshaped, moved = self._gradients.update(arrays, lifetime)
        if self.schedule is not None and not (again and not reshaped and not moved):
            # Gradients that have come back into the buckets deserve the flat kernels again.
            home = not self._pack or not keep or self.schedule.is_flat
            fits = not reshaped and home and (not moved or self.schedule.rebind(moved))
            if not fits and capturing:
                raise RuntimeError(_OTHER_GRADIENTS)
            if not fits:
                self.settle()
        self._gradients.is_torn = False

    def _scheduled(self, hyper: Sequence[Hyperparameters], mode: Mode, capturing: bool) -> Schedule:
        if self.schedule is not None and self.schedule.mode != mode:
            if capturing:
                raise RuntimeError(
                    "a captured step clips, skips or measures otherwise than the step before, which compiled it: "
                    "call step() once before the capture"
                )
            self.settle()
        return self.schedule or uninterrupted(self._make_schedule, hyper, mode)

    def _make_schedule(self, hyper: Sequence[Hyperparameters], mode: Mode) -> Schedule:
        # Graphs of earlier plans may have been replayed since these were taken over.
        self.read_steps()
        self._begin_states(hyper)
        schedule = Schedule(self.params, self._gradients, self.steps, hyper, self._averaging, mode)
        controls = self._control.ensure(schedule.engines, self._norms) if mode.on_device else {}
        # A step on several devices cannot be captured, nor can one on a CPU.
        may_be_captured = self._capturable and len(self._lanes) == len(schedule.engines) == 1
        schedule.load(controls, self._captures.counts_for(schedule) if may_be_captured else None)
        active = (placed for placed in self.params if self._gradients.operand(placed.index) is not None)
        self._first = [placed for placed in active if placed.loaded]
        self.schedule = schedule
        return schedule

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

    def run(self, schedule: Schedule, stream: int | None, launch: Callable[[Stage], None]) -> None:
        """Launch a step that was prepared, and count it: whole, or not at all.

        Args:
            schedule: The step's.
            stream: The stream; ``None`` for the library's current one.
            launch: Runs it, and calls the functions of C code that it is given, as a part of the run.
        """
        self.residence.announce(schedule.tensors)
        if schedule.is_native and not self._first:
            launch(schedule.count)
        else:
            _on_stream(stream, partial(self._run, schedule, launch))
        if self.scaling.on_device and not (self._keeps_scaling or schedule.is_captured):
            self.scaling = self.scaling.released()

    def _run(self, schedule: Schedule, launch: Callable[[Stage], None]) -> None:
        for placed in self._first:
            placed.reread_master()
            placed.begin_average()
        launch(schedule.count)
        while self._first:
            placed = self._first.pop()
            placed.loaded = placed.lacks_average = False

    def settle(self) -> None:
        """Take the step counts over from the device, for which it waits, and forget the schedule.

        All steps are then done: what is read or written next need not be ordered after them.
        """
        if self.schedule is not None or self._captures:
            uninterrupted(self._settle)

    def _settle(self) -> None:
        schedule = self.schedule
        if schedule is not None:
            schedule.finish()
            schedule.settle(self.steps)
            self.schedule = None
        self._captures.collect(self.steps)
        if schedule is not None and schedule.is_captured:
            self._captures.keep(schedule, self.scaling)
        self._captures.tell(self.steps)

    def read_steps(self) -> NDArray[np.int64]:
        """The parameters' step counts, for which it waits where the device keeps them."""
        return uninterrupted(self._read_steps)

    def _read_steps(self) -> NDArray[np.int64]:
        if self.schedule is not None:
            self.schedule.settle(self.steps)
        if self._captures.collect(self.steps) and self.schedule is not None:
            self.schedule.tell(self.steps)
        self._captures.tell(self.steps)
        return self.steps

    def ordered(self) -> AbstractContextManager[Any]:
        """A block: what the arrays' libraries copy in it comes after the last step, on whichever stream, and before the next one."""
        return self.schedule.ordered() if self._lanes and self.schedule is not None else nullcontext()


def _on_stream(stream: int | None, work: Callable[[], None]) -> None:
    """Do some work in a stream, where no handlers run."""
    if stream == PER_THREAD:
        # In another thread it would be another stream.
        work()
    else:
        uninterrupted(work)
