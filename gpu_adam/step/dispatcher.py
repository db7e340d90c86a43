"""What a step goes through between its request and its launches, and what of it is kept for the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import ArrayRef, Library, Lifetime, current_stream
from ..device import Device
from ..engines import Engine, Stage, capture_errors
from ..lazy import cached_property
from ..process.per_thread import PER_THREAD
from ..process.uninterrupted import uninterrupted
from ..rules.hyperparameters import Averaging
from ..state.parameter import Placed
from ..state.placement import begin_states
from ..state.residence import Residence
from .captures import Captures
from .control import Control
from .counts import SharedCounts
from .executor import Executor
from .gradients import Gradients
from .planning import members_of, plan_of
from .request import Request
from .scaling import UNSCALED, Scaling


class Dispatcher:
    """The parameters as they lie now, the last step's gradients and its executor.

    Everything here follows from the parameters and is found again: an optimizer whose parameters or state have changed makes a new one.

    Attributes:
        params: The parameters.
        steps: Their step counts, as far as the host knows them; see `settle`.
        executor: The last step's; ``None`` before the first, and after a change.
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
        self.executor: Executor | None = None
        self.scaling: Scaling = UNSCALED
        self._averaging = averaging
        self._control = control
        self._loaded: list[Placed] = []
        self._set_changes = 0
        self._captures = captures
        self._norms = norms
        self._pack = pack
        self._capturable = capturable
        self.residence = Residence(params) if residence is None else residence

    @cached_property
    def _gradients(self) -> Gradients:
        # Made when they are looked at: groups that are added one by one would each make all anew.
        return self.fresh_gradients()

    def _reset(self) -> None:
        vars(self).pop("_gradients", None)
        vars(self).pop("_gpus", None)
        self.residence = Residence(self.params)

    @cached_property
    def _gpus(self) -> list[tuple[Engine, Device, Library]]:
        gpus = {one.ref.device: one for one in self.params if one.ref.device.kind != "cpu"}
        return [(one.engine, device, one.ref.library) for device, one in gpus.items()]

    @property
    def may_grow(self) -> bool:
        """Whether parameters may be added before what was done to the others is taken up."""
        return self.executor is None and self.residence.may_grow

    def fresh_gradients(self, params: Sequence[Placed] | None = None) -> Gradients:
        """Of the same parameters, or others like them, none seen yet."""
        no_sparse = "capturable=True" if self._capturable else "an average of the parameters" if self._averaging else ""
        return Gradients(self.params if params is None else params, no_sparse)

    def check_gradients(self, arrays: Sequence[Any]) -> None:
        """Raise what a step with these gradients would raise."""
        self._gradients.check(arrays)

    def is_captured(self, stream: int | None) -> bool:
        """Whether the step is being captured in a graph.

        Raises:
            RuntimeError: If it cannot be.
        """
        if len(self._gpus) > 1 and stream is not None:
            raise ValueError("stream= is for parameters on one device: make it each device's current stream instead")
        capturing = False
        for engine, device, library in self._gpus:
            capturing |= engine.capturing(device, current_stream(library, device) if stream is None else stream)
        if capturing and not self._capturable:
            raise capture_errors.not_capturable()
        if capturing and (self.executor is None or len(self._gpus) > 1):
            raise capture_errors.nothing_compiled()
        return capturing

    # What was done to the parameters.

    def follow_memory(self, capturing: bool = False) -> None:
        """Take up what was done to the parameters' memory since the last step; nothing may have been while a step is captured."""
        moved = self.residence.moved()
        if moved and capturing:
            raise capture_errors.parameter_moved(moved[0][0].label)
        written = self.residence.written()
        if written and capturing:
            raise capture_errors.parameter_written(written[0].label)
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

    # A step.

    def prepare(self, request: Request) -> Executor:
        """Everything before the update: what is wrong with a gradient or a schedule is raised, and sparse gradients are summed."""
        self._take_gradients(request)
        executor = self._executor_for(request)
        if request.stream is not None and self._gradients.has_sparse:
            raise ValueError("gradients of rows are sorted on the current stream: make stream= the current one")
        if not request.is_captured:
            executor.coefficients.prepare(request, self.steps)
        elif self._due:
            raise capture_errors.state_loaded()
        elif request.scaling != self.scaling:
            raise capture_errors.other_scaling()
        self.scaling = request.scaling
        if executor.sums:
            uninterrupted(executor.sum_sparse)
        return executor

    def _take_gradients(self, request: Request) -> None:
        lasting, capturing = request.is_lasting, request.is_captured
        lifetime = Lifetime.GIVEN if not lasting else Lifetime.OWN if self._pack else Lifetime.HELD
        if self._gradients.is_torn and capturing:
            raise capture_errors.other_gradients()
        if self._gradients.is_torn:
            # An exception came before the plan had what they had: all are seen as new ones, by a new plan.
            self.settle()
            self._gradients = self.fresh_gradients()
        again = self._gradients.holds(request.arrays)
        change = self._gradients.update(request.arrays, lifetime)
        executor = self.executor
        if executor is not None and not (again and not change):
            planned = executor.planned
            # Gradients that have come back into the buckets deserve the flat kernels again.
            home = not self._pack or not lasting or planned.is_flat or planned.may_rest
            fits = not change.reshaped and home and executor.follow(change.moved, may_rest=not capturing)
            if not fits and capturing:
                raise capture_errors.other_gradients()
            if not fits:
                # A set that changes once may stay so; one that changes again will go on doing so.
                self._set_changes += not change.reshaped and not planned.is_of(self._gradients.present)
                self.settle()
        self._gradients.is_torn = False

    def _executor_for(self, request: Request) -> Executor:
        if self.executor is not None and self.executor.planned.mode != request.mode:
            if request.is_captured:
                raise capture_errors.other_mode()
            self.settle()
        executor = self.executor
        if (
            executor is not None
            and executor.planned.may_rest
            and not (request.is_captured or executor.fits(request.hyper))
        ):
            self.settle()
        return self.executor or uninterrupted(self._make_executor, request)

    def _make_executor(self, request: Request) -> Executor:
        # Graphs of earlier plans may have been replayed since these were taken over.
        self.read_steps()
        hyper, mode = request.hyper, request.mode
        # Where nobody has one nothing runs. And the leaves of several devices have slots among each other.
        varies = self._set_changes > 1 and bool(self._gradients.present.any())
        may_rest = varies and not (mode.measures and len(self._gpus) > 1)
        active = members_of(self.params, self._gradients, self.steps, may_rest=may_rest)
        begin_states(active, self.steps, hyper, averages=bool(self._averaging))
        planned = plan_of(active, self.params, self._gradients, self.steps, hyper, self._averaging, mode, may_rest)
        engines = {placed.ref.device: placed.engine for placed in active}
        controls = self._control.ensure(engines, self._norms) if mode.on_device else {}
        # A step on several devices cannot be captured, nor can one on a CPU.
        shared: SharedCounts | None = None
        if self._capturable and len(self._gpus) == len(engines) == 1:
            ((device, engine),) = engines.items()
            shared = self._captures.counts_for(planned.cohorts, device, engine)
        executor = Executor(planned, self.params, self._gradients, self.steps, hyper, self._averaging, controls, shared)
        self._loaded = [placed for placed in active if placed.loaded]
        self.executor = executor
        return executor

    def run(self, executor: Executor, stream: int | None, launch: Callable[[Stage], None]) -> None:
        """Launch a step that was prepared, and count it: whole, or not at all.

        Args:
            executor: The step's.
            stream: The stream; ``None`` for the library's current one.
            launch: Runs it, and calls the functions of C code that it is given, as a part of the run.
        """
        self.residence.announce(executor.tensors)
        if executor.is_native and not self._due:
            launch(executor.coefficients.count)
        else:
            _on_stream(stream, partial(self._run, executor, launch))
        # On a stream that is not the library's own, it would give freed memory out again too early.
        if self.scaling.on_device and not (stream is not None or executor.is_captured):
            self.scaling = self.scaling.released()

    def _run(self, executor: Executor, launch: Callable[[Stage], None]) -> None:
        due = self._due
        for placed in due:
            placed.reread_master()
            placed.begin_average()
        launch(executor.coefficients.count)
        for placed in due:
            placed.loaded = placed.lacks_average = False
        self._loaded = [placed for placed in self._loaded if placed.loaded]

    @property
    def _due(self) -> list[Placed]:
        """The parameters of the next step that were loaded since their last one."""
        return [placed for placed in self._loaded if self._gradients.present[placed.index]]

    def prepare_replay(self, request: Request) -> bool:
        """Send the hyperparameters of now to the device, which has run steps without the host, also for graphs of earlier plans.

        Returns:
            Whether there is a graph that they can be sent to.
        """
        executors = self._captures.prepare(self.read_steps(), request) if self._captures else []
        if self.executor is not None:
            self.executor.coefficients.prepare(request, self.steps)
            executors.append(self.executor)
        for executor in executors:
            _on_stream(request.stream, partial(executor.send, request.stream))
        return bool(executors)

    # Step counts.

    def settle(self) -> None:
        """Take the step counts over from the device, for which it waits, and forget the plan.

        All steps are then done: what is read or written next need not be ordered after them.
        """
        if self.executor is not None or self._captures:
            uninterrupted(self._settle)

    def _settle(self) -> None:
        executor = self.executor
        if executor is not None:
            executor.finish()
            executor.coefficients.sync(self.steps)
            self.executor = None
        self._captures.collect(self.steps)
        if executor is not None and executor.is_captured:
            self._captures.keep(executor, self.scaling)
        self._captures.tell(self.steps)

    def read_steps(self) -> NDArray[np.int64]:
        """The parameters' step counts, for which it waits where the device keeps them."""
        return uninterrupted(self._read_steps)

    def _read_steps(self) -> NDArray[np.int64]:
        if self.executor is not None:
            self.executor.coefficients.sync(self.steps)
        if self._captures.collect(self.steps) and self.executor is not None:
            self.executor.coefficients.tell(self.steps)
        self._captures.tell(self.steps)
        return self.steps

    def ordered(self) -> AbstractContextManager[Any]:
        """A block: what the arrays' libraries copy in it comes after the last step, on whichever stream, and before the next one."""
        return self.executor.ordered() if self._gpus and self.executor is not None else nullcontext()


def _on_stream(stream: int | None, work: Callable[[], Any]) -> None:
    """Do some work in a stream, where no handlers run."""
    if stream == PER_THREAD:
        # In another thread it would be another stream.
        work()
    else:
        uninterrupted(work)
