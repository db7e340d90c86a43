"""What the classes of `gpu_adam.torch` are: a `torch.optim.Optimizer` whose steps one of the package's optimizers makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from copy import copy
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor

from ..casting import in_ieee_mode
from ..errors import ParameterChangedError
from ..messages import a_kind
from ..optim.base import GpuOptimizer
from ..optim.interface import unexpected
from ..plan.launches import Plan
from ..step.amp import HandedOver, handed_over
from ..step.graph import StepGraph
from ..step.scaling import max_norm
from .access import whole
from .engine import Engine
from .groups import refuse_twice, values_of
from .live_state import LiveState
from .loading import read_state_dict
from .saving import state_dict_of


class Options(TypedDict, total=False):
    """The keyword arguments that every class takes behind PyTorch's own; see `gpu_adam.GpuOptimizer`."""

    engine: str
    pack: bool
    master_weights: bool | None
    max_grad_norm: float | None
    group_norms: bool
    skip_nonfinite: bool
    ema_decay: float | None
    polyak_average: bool


def _refuse_flags(foreach: bool | None, fused: bool | None, differentiable: bool) -> None:
    """Raise what PyTorch raises for flags that do not go together; here autograd never sees a step."""
    if differentiable:
        raise RuntimeError(
            "differentiable=True: autograd does not see the kernels that make the step, so it must be False"
        )
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


class TorchOptimizer(torch.optim.Optimizer):
    """What all classes here are: a `torch.optim.Optimizer`, for whatever takes one, with the steps of this package.

    The engine is made at the first step, from what groups and state hold then, and made again when a group has other parameters, or these
    have another device, dtype or shape. The state is shown without a copy: ``state[p]`` holds views of the engine's memory, and what is
    written, put there or deleted is taken up by the next step. The step counts among it are what the host knows: where a device counts
    (clipping, skipping, ``capturable``), asking for ``state`` waits for it.

    Args:
        params: As PyTorch takes them: tensors, named tensors, or groups with any keys; DTensors and complex tensors too.
        hyperparameters: Their defaults, PyTorch's and this package's.
        foreach, fused: Choose nothing here: every step is one launch for all tensors. With ``fused=True`` PyTorch's ``GradScaler`` leaves
            unscaling and skipping to the step, as it does with PyTorch's fused optimizers.
        differentiable: Must be ``False``: autograd does not see the kernels.
        capturable: Whether step counts and coefficients live on the device, so that a step can be captured in a CUDA graph.
        pack: Whether the parameters and their gradients move into one flat array for each dtype, at the first step. They stay the same
            tensors; `zero_grad` fills the gradients with zeros from then on. Not for complex tensors, DTensors and FSDP's.
        max_grad_norm: What the global norm of all gradients is clipped to within the step, at least 0; ``inf`` only measures. See
            `grad_norm`. Not for shards, of whose gradients each rank has a part.
        group_norms: Whether each group's norm is measured as well; see `group_grad_norms`. Not for shards.
        skip_nonfinite: Whether a step changes nothing where a gradient has an infinity or a NaN, or the square of their norm is
            infinite; see `steps_skipped`. Not for shards.
        ema_decay: The decay, in [0, 1), of an exponential average of the parameters, ``state[p]["average"]``; see `averaged`.
        polyak_average: Whether their plain mean is kept instead.
        master_weights: Whether bfloat16 and float16 parameters keep a float32 copy on which the arithmetic runs, ``state[p]["master"]``;
            ``None`` means yes.
        engine: ``"cpu"``, ``"cupy"``, ``"numba"``, or ``"auto"``, the default: by where the parameters are and what is installed.

    Raises:
        TypeError: For parameters that PyTorch refuses, and for options that there are not.
        ValueError: For a number out of its range, and a parameter that comes twice.
        RuntimeError: For ``differentiable=True``, and for ``foreach`` together with ``fused``.

    Attributes:
        param_groups: The groups, dicts with PyTorch's keys and any others; editable between steps, their lists of parameters too.
        defaults: The hyperparameters of groups that do not say otherwise.
    """

    _kind: ClassVar[type[GpuOptimizer]]

    grad_scale: Any = HandedOver()
    found_inf: Any = HandedOver()

    def __init__(
        self,
        params: Any,
        hyperparameters: Mapping[str, Any],
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
        capturable: bool = False,
        **options: Any,
    ) -> None:
        _refuse_flags(foreach, fused, differentiable)
        self._refuse_unknown(options)
        if isinstance(params, (set, frozenset)):
            raise TypeError(f"params is {a_kind(params)}: must be a list, or another collection with an order")
        defaults = {
            **hyperparameters,
            "foreach": foreach,
            "fused": fused,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        # An optimizer of nothing, which refuses what makes no sense before there is anything.
        values = values_of(defaults, self._kind.algorithm.keys, "the defaults")
        self._kind([{"params": []}], **values, **options, capturable=capturable)
        self._options = options
        self._engine: Engine | None = None
        self._skipped_before = 0
        super().__init__(params, defaults)
        if fused:
            self._step_supports_amp_scaling = True

    @classmethod
    def _refuse_unknown(cls, options: Mapping[str, Any]) -> None:
        """Raise `TypeError` for keywords that no constructor of this class has; the error names the one that may have been meant."""
        unknown = {name: value for name, value in options.items() if name not in Options.__annotations__}
        if unknown:
            raise unexpected(cls, unknown, Options.__annotations__)

    # The groups.

    @torch._disable_dynamo
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, whose own step count starts at 0.

        Args:
            param_group: ``"params"``, any hyperparameters that differ from the defaults, and any keys of the user's own.

        Raises:
            TypeError, ValueError: As in the constructor; nothing has changed then.
        """
        if isinstance(param_group, dict):
            self._check_group(param_group)
        super().add_param_group(param_group)

    def _check_group(self, group: dict[str, Any]) -> None:
        algorithm, where = self._kind.algorithm, f"group {len(self.param_groups)}"
        if group.get("differentiable"):
            raise ValueError(f"differentiable=True of {where}: autograd does not see the kernels, so it must be False")
        values = values_of({**self.defaults, **group}, algorithm.keys, where)
        algorithm.hyperparameters(values, where, read_lr=not self.defaults["capturable"])
        params = group.get("params")
        if params is not None and not isinstance(params, (Tensor, set)):
            group["params"] = list(params)
            refuse_twice(group["params"], where)

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

    # A step.

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
        if self._engine is None and not any(p.grad is not None for group in self.param_groups for p in group["params"]):
            return  # nothing to update: PyTorch's optimizers say nothing of such parameters either
        try:
            self._engine_step()
        except (TypeError, ValueError) as error:
            self._forget_engine_after(error)
            self._engine_step()

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
        with torch.no_grad():
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
        with torch.no_grad():
            engine.take_up(state)

    def _forget_engine(self) -> None:
        """Go on without an engine until the next step, whose engine takes up the state that is shown.

        Raises:
            RuntimeError: In a block of `averaged`, at whose end this engine makes the parameters what they were.
        """
        if self._engine is not None:
            self._engine.refuse_averages()
            self._engine.show_all(self._state)
            # In one operation, as all that an exception may come in the middle of.
            self.__dict__.update(_skipped_before=self.steps_skipped, _engine=None)

    def _forget_engine_after(self, error: Exception) -> None:
        """Forget the engine where it has found parameters that have become others, as by `module.to()`; raise any other error again.

        It is made anew with the state that there is. Some may have lost their memory, or become integers: they are left out then.
        """
        if not isinstance(error, ParameterChangedError) and (self._engine is None or self._engine.has_all):
            raise error
        self._forget_engine()

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

    @torch._disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """The state in PyTorch's layout, which `torch.optim`'s class of the same name loads as well.

        Returns:
            ``{"state": {number: {name: tensor}}, "param_groups": [...]}``; the tensors are those of `state`, not copies, as in PyTorch.
            Beside PyTorch's there are ``"master"`` and ``"average"`` where they are kept, and ``"steps_skipped"`` where steps were.
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        saved = state_dict_of(self.state, self.param_groups, self._kind.algorithm)
        if self.steps_skipped:
            saved["steps_skipped"] = self.steps_skipped
        for after in self._optimizer_state_dict_post_hooks.values():
            result = after(self, saved)
            saved = saved if result is None else result
        return saved

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a state; the next step is then the same to the bit.

        Float32 moments of 16-bit parameters stay float32, where PyTorch's optimizers round them.

        Parameters are matched by name where both have the same names, and else by their place.

        Args:
            state_dict: Of this class, of `torch.optim`'s of the same name, of ``gpu_adam``'s, or of a distributed checkpoint, its
                parameters by number or by name; not modified.

        Raises:
            TypeError, ValueError: If it does not fit; nothing has changed then.
        """
        saved = copy(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            result = before(self, saved)
            saved = saved if result is None else result
        with torch.no_grad():
            state, groups, skipped = read_state_dict(saved, self.param_groups, self.defaults, self._kind.algorithm)
        skipped += self._skipped_before - self.steps_skipped
        self.__setstate__({"state": LiveState(state), "param_groups": groups, "_skipped_before": skipped})
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        kept = {"_options": self._options, "_skipped_before": self.steps_skipped}
        if getattr(self, "_step_supports_amp_scaling", False):
            kept["_step_supports_amp_scaling"] = True
        return {**super().__getstate__(), **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_engine", None)
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)

    # What the package's optimizers have beside PyTorch's; see `gpu_adam.GpuOptimizer`.

    @property
    def steps_skipped(self) -> int:
        """How many steps were skipped so far; asking waits for the device."""
        return self._skipped_before + (0 if self._engine is None else self._engine.core.steps_skipped)

    @property
    def grad_norm(self) -> Tensor:
        """The global norm of the last step's gradients before clipping, a 0-dimensional float64 tensor on their device.

        Raises:
            RuntimeError: If the last step measured none.
        """
        norm: Tensor = self._made().grad_norm
        return norm

    @property
    def group_grad_norms(self) -> Tensor:
        """The norm of each group, a float64 tensor of one dimension; with ``group_norms=True``."""
        norms: Tensor = self._made().group_grad_norms
        return norms

    @property
    def max_grad_norm(self) -> float | None:
        """What the global norm of the gradients is clipped to; may be changed between steps."""
        return self._options.get("max_grad_norm")

    @max_grad_norm.setter
    def max_grad_norm(self, value: float | None) -> None:
        checked = None if value is None else max_norm(value)
        if self._engine is not None:
            self._engine.clip_to(checked)
        self._options = {**self._options, "max_grad_norm": checked}

    @property
    def plan(self) -> Plan:
        """Buckets, launches and bytes moved of the last step, or of the next one where none was yet; printable."""
        with torch.no_grad():
            return self._ready().core.plan

    def averaged(self) -> AbstractContextManager[None]:
        """A block in which the parameters are their averages, ``state[p]["average"]``; after it they are what they were, to the bit.

        Raises:
            RuntimeError: If no average is kept: make the optimizer with ``ema_decay`` or ``polyak_average``.
        """
        with torch.no_grad():
            return self._current().core.averaged()

    def graph(self) -> StepGraph:
        """A step with the gradients that there are as a CUDA graph, to be replayed; see `gpu_adam.GpuOptimizer.graph`.

        Raises:
            RuntimeError: Without ``capturable=True``, and on a CPU, which has no graphs.
        """
        with torch.no_grad():
            return self._current().core.graph()

    def _made(self) -> GpuOptimizer:
        if self._engine is None:
            raise RuntimeError("no step was made since the optimizer was made: there is no norm yet")
        return self._engine.core
