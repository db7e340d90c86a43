"""Steps of a torch optimizer: its engine, which is made from what groups and state hold, and the state that shows the engine's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from ..casting import in_ieee_mode
from ..errors import ParameterChangedError
from ..messages import a_kind
from ..optim.base import GpuOptimizer
from ..step.amp import HandedOver, handed_over
from .access import whole
from .engine import Engine
from .live_state import LiveState


class StepLayer(torch.optim.Optimizer):
    """The lowest layer of `gpu_adam.torch.optimizer.TorchOptimizer`: what makes steps."""

    _kind: ClassVar[type[GpuOptimizer]]

    _options: dict[str, Any]
    _engine: Engine | None
    _skipped_before: int
    _captured: tuple[Engine, ...] = ()
    """Engines of before that have memory in which a graph of the caller's may still write."""

    grad_scale: Any = HandedOver()
    found_inf: Any = HandedOver()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            What the closure returns; ``None`` without one.

        Raises:
            TypeError, ValueError: For a gradient that does not fit its parameter, a hyperparameter that makes no sense, or a state that was
                put in `state` and does not fit. No parameter has changed then.
        """
        loss = None
        if closure is not None:
            if not callable(closure):
                raise TypeError(
                    f"closure is {a_kind(closure)}: must be a function that returns the loss; a step takes the gradients in .grad"
                )
            with torch.enable_grad():
                loss = closure()
        self._step()
        return loss

    def _patch_step_function(self) -> None:
        # Called by PyTorch whenever an optimizer is made, to put hooks and a profiler's range around its class's `step`. `torch.compile`
        # is kept out of these as well: it would compile them for each class, and break in each of them.
        hooked = getattr(type(self).step, "hooked", False)
        super()._patch_step_function()
        if not hooked:
            type(self).step = torch.compiler.disable(type(self).step)  # type: ignore[method-assign]

    @in_ieee_mode
    def _step(self) -> None:
        groups = self.param_groups
        if not groups or (self._engine is None and all(p.grad is None for group in groups for p in group["params"])):
            return  # nothing to update: PyTorch's optimizers say nothing of such parameters either
        try:
            self._engine_step()
        except (TypeError, ValueError) as error:
            if not self._compute_negations():
                self._forget_engine_after(error)
            self._engine_step()

    @torch.no_grad()
    def _compute_negations(self) -> bool:
        """Compute the gradients that autograd has left to be negated by whoever reads them; whether there were any.

        It does so to real parameters of one element that become a part of a complex number. To ask each gradient before each step would
        cost more than to be refused now and then.
        """
        found = False
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.grad is not None and p.grad.is_neg():
                p.grad, found = p.grad.resolve_neg(), True
        return found

    def _engine_step(self) -> None:
        engine = self._ready()
        scale, found = handed_over(self)
        core = engine.core
        if scale is None and found is None:
            engine.step()
        else:
            core.grad_scale, core.found_inf = scale, whole(found)
            try:
                engine.step()
            finally:
                del core.grad_scale, core.found_inf
        engine.show(self._state)

    def _ready(self) -> Engine:
        """The engine for what groups and state hold now."""
        groups, state = self.param_groups, self._state
        if self._engine is not None and not self._engine.fits(groups):
            self._forget_engine()
        engine: Engine | None = self._engine
        if engine is None:
            return self._make_engine()
        engine.set_hyperparameters(groups)
        if state.changes.any or state.shown_by is not engine or engine.was_edited:
            self._take_up(engine)
        return engine

    def _current(self) -> Engine:
        """The engine, after it has taken up what was done to the parameters' memory as well, as steps do by themselves."""
        try:
            engine = self._ready()
            engine.follow()
        except (TypeError, ValueError) as error:
            self._forget_engine_after(error)
            engine = self._ready()
        return engine

    def _make_engine(self) -> Engine:
        engine = Engine(self._kind, self.param_groups, self._options)
        self._take_up(engine)
        # Not before: where the state does not fit, nothing has changed.
        self._engine = engine
        return engine

    def _take_up(self, engine: Engine) -> None:
        state = self._state
        if state.shown_by is not None:
            # That of a copy of this optimizer, which has the same state.
            state.shown_by.tell_counts(state)
        engine.take_up(state)

    def _forget_engine(self) -> None:
        """Go on without an engine until the next step, whose engine takes up the state that is shown.

        Raises:
            RuntimeError: In a block of `averaged`, at whose end this engine makes the parameters what they were.
        """
        if self._engine is not None:
            self._engine.refuse_averages()
            self._engine.show_all(self._state)
            captured = (*self._captured, self._engine) if self._engine.is_captured else self._captured
            # In one operation, as all that an exception may come in the middle of.
            self.__dict__.update(_skipped_before=self.steps_skipped, _engine=None, _captured=captured)

    def _forget_engine_after(self, error: Exception) -> None:
        """Forget the engine where it has found parameters that have become others, as by `module.to()`; raise any other error again.

        It is made anew with the state that there is. Some may have lost their memory, or become integers: they are left out then.
        """
        if not isinstance(error, ParameterChangedError) and (self._engine is None or self._engine.has_all):
            raise error
        self._forget_engine()

    @property
    def steps_skipped(self) -> int:
        """How many steps were skipped so far; asking waits for the device."""
        return self._skipped_before + (0 if self._engine is None else self._engine.core.steps_skipped)

    @torch._disable_dynamo
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients.

        Args:
            set_to_none: Whether each ``.grad`` becomes ``None``, and is not filled with zeros; with ``pack=True`` it is always filled.
        """
        engine = self._engine
        # One that is to be made anew knows other parameters.
        if self._options.get("pack") and engine is not None and engine.fits(self.param_groups):
            try:
                engine.core.zero_grad(set_to_none)
                return
            except ValueError:
                # Parameters that have become others do not take the gradients that are bound to them.
                self._forget_engine()
        super().zero_grad(set_to_none)

    # The state.

    @property
    def _state(self) -> LiveState:
        # PyTorch's own code puts a plain dict here, around any attribute.
        state = self.__dict__.get("state")
        if not isinstance(state, LiveState):
            state = self.__dict__["state"] = LiveState(state or ())
        return state

    @property
    def state(self) -> LiveState:
        """What is kept for each parameter, as views of the engine's memory that may be written to; see the class.

        It maps parameters to dicts: ``"step"``, a 0-dimensional tensor on the host, and the algorithm's states, like the parameter
        in shape and device, in float32 (float64 for float64). A parameter that was never updated has none.
        """
        state = self._state
        if self._engine is not None:
            self._engine.show_all(state)
        return state

    @state.setter
    def state(self, value: Mapping[Any, Any]) -> None:
        self.__dict__["state"] = LiveState(value)
