"""Steps: what one is asked for, what it does about norms and scales, and what it ran."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

import numpy as np

from ..arrays import ArrayRef
from ..cuda.streams import handle_of
from ..engines import Engine, capture_errors
from ..plan.cohorts import Mode
from ..plan.launches import Plan
from ..process.sole import changing, reading
from ..rules.algorithm import Hyperparameters
from ..state.frozen import is_frozen
from ..state.placement import place
from ..step.amp import HandedOver, handed_over
from ..step.loss_scaler import LossScaler
from ..step.planning import plan_of
from ..step.request import Request
from ..step.scaling import UNSCALED, Scaling, max_norm, scaling_of
from ..step.settings import Limits
from .interface import unexpected_in_step
from .parameters import ParameterLayer


class StepLayer(ParameterLayer):
    """What makes steps, over what knows the parameters."""

    _keys: list[tuple[Any, ...]]
    _hyper: list[Hyperparameters]
    _max_grad_norm: float | None
    _group_norms: bool
    _skip_nonfinite: bool
    _unscaled: tuple[float | None, Limits, Mode] | None

    _step_supports_amp_scaling = True
    """PyTorch's GradScaler then leaves unscaling and skipping to the step, and hands over two tensors for it."""

    grad_scale: Any = HandedOver()
    found_inf: Any = HandedOver()

    @changing
    def step(self, grads: Any = None, *, grad_scale: Any = None, stream: Any = None, **unknown: Any) -> None:
        """Update every parameter that has a gradient.

        Args:
            grads: The gradients, in the structure in which the parameters were given, ``None`` for a parameter that is to be
                left alone, its step count too. Each has its parameter's shape and device, any of the four formats and any
                strides; or is a tuple of row numbers (n,) and row values (n, …), a tuple of indices (k, n) into the first k dimensions
                and values (n, …), or a sparse torch tensor in coordinate format: then only these rows of the parameter and its state
                change, and values of the same row are summed. By default the bound ones: `grads`, and for torch tensors their
                ``.grad``; where arrays of other libraries have none bound, it is an error.
            grad_scale: What the gradients are divided by: a positive number, a 0-dimensional array, which is read on its device, or
                a `LossScaler`, which also skips steps that are not finite. PyTorch's ``GradScaler`` hands its own over by itself.
            stream: The CUDA stream to work on: CuPy's, PyTorch's or Numba's, or its handle. By default the current stream of
                the library that the arrays are of. On another stream, the memory of the gradients and of ``grad_scale`` must not be
                given to others before the step has read it: for PyTorch's tensors call their ``record_stream``.
            **unknown: None: any other keyword, such as PyTorch's ``closure``, which ``gpu_adam.torch`` has, is an error.

        Raises:
            TypeError, ValueError: For a gradient that does not fit its parameter, or a hyperparameter that makes no sense.
                Nothing has changed then: no parameter, no state, no step count.
            RuntimeError: Inside a block of `averaged`, and where a step is captured that cannot be.
        """
        if unknown:
            raise unexpected_in_step(type(self), unknown)
        on = None if stream is None else handle_of(stream)
        capturing = self._check_stream(on)
        # Held until the launches are made: nobody else may hold them.
        arrays = self._arrays(grads, capturing)
        executor = self._dispatcher.prepare(self._request(arrays, grad_scale, on, capturing))
        self._dispatcher.run(executor, on, partial(executor.run, on))

    def _check_stream(self, stream: int | None) -> bool:
        """Whether the step is being captured in a graph; an error if it may not run."""
        self._refuse_if_swapped()
        return self._dispatcher.is_captured(stream)

    def _arrays(self, grads: Any, capturing: bool = False) -> Sequence[Any]:
        """One gradient or ``None`` for each parameter, of those that are given or else the bound ones."""
        self._follow(capturing)
        if grads is not None:
            return self._groups.flatten(grads)
        arrays = self._bound.current()
        # What is captured was stepped before, and then looked at.
        if not capturing and arrays is self._bound.steady and arrays and all(array is None for array in arrays):
            self._bound.refuse_absent(self._dispatcher.read_steps)
        return arrays

    def _request(self, arrays: Sequence[Any], grad_scale: Any, stream: int | None, capturing: bool = False) -> Request:
        """What a step with these gradients is asked for; what is wrong with the arguments or hyperparameters is raised here."""
        self._read_hyperparameters(capturing)
        scaling = self._scaling(grad_scale)
        limits, mode = self._unscaled_asks() if scaling is UNSCALED else self._asks(scaling, self._max_grad_norm)
        return Request(self._hyper, scaling, limits, mode, arrays, arrays is self._bound.steady, stream, capturing)

    def _read_hyperparameters(self, capturing: bool = False) -> None:
        """Take up what was edited in `param_groups`; ``capturing`` tells whether a step is being captured in a graph."""
        algorithm, read_lr = self.algorithm, not self._capturable
        named = [(group, f"group {index}") for index, group in enumerate(self.param_groups)]
        keys = [algorithm.identify(group, where, read_lr=read_lr) for group, where in named]
        if keys == self._keys:
            return
        for group, where in named:
            algorithm.check_keys(group, where)
        hyper = [algorithm.hyperparameters(group, where, read_lr=read_lr) for group, where in named]
        for own, formats, (_, where) in zip(hyper, self._working, named, strict=True):
            own.refuse_misfits(formats, where)
        if [(h.rule, h.initial) for h in hyper] != [(h.rule, h.initial) for h in self._hyper]:
            if capturing:
                raise capture_errors.other_rule()
            self._dispatcher.settle()
        # In this order: where an exception comes in between, they are read again.
        self._hyper = hyper
        self._keys = keys

    def _remade(self, *args: Any) -> dict[str, Any]:
        return {**super()._remade(*args), "_keys": [], "_hyper": [], "_unscaled": None}

    # Clipping, scaling, skipping.

    @property
    def max_grad_norm(self) -> float | None:
        """What the global norm of the gradients is clipped to; may be changed between steps."""
        return self._max_grad_norm

    @max_grad_norm.setter
    def max_grad_norm(self, value: float | None) -> None:
        self._max_grad_norm = None if value is None else max_norm(value)

    def _unscaled_asks(self) -> tuple[Limits, Mode]:
        """Those of steps whose gradients are not scaled, as long as they are the same."""
        most = self._max_grad_norm
        if self._unscaled is None or self._unscaled[0] != most:
            self._unscaled = (most, *self._asks(UNSCALED, most))
        return self._unscaled[1:]

    def _asks(self, scaling: Scaling, most: float | None) -> tuple[Limits, Mode]:
        """What steps do about the norm of their gradients, and how they come to their coefficients.

        Args:
            scaling: How the gradients are scaled.
            most: What their norm is clipped to; ``None`` where it is not.
        """
        skips = self._skip_nonfinite or scaling.scaler is not None
        measures = most is not None or skips
        on_device = measures or self._capturable or scaling.on_device
        if on_device and len({device.kind for device in self._devices}) > 1:
            raise ValueError(
                "clipping, skipping and device scales need all parameters on GPUs, or all on the CPU: make an optimizer for each"
            )
        limits = Limits(inf if most is None else most, skips, self._narrowest)
        return limits, Mode(on_device, measures, measures and self._group_norms)

    def _scaling(self, grad_scale: Any) -> Scaling:
        handed, found = handed_over(self)
        given = handed if grad_scale is None else grad_scale
        if given is None and found is None:
            return UNSCALED
        if isinstance(given, LossScaler) and given.optimizer is not self:
            raise ValueError(
                "grad_scale is a LossScaler of another optimizer, whose steps change it: make one for each"
            )
        return scaling_of(given, found, self._devices, self._narrowest)

    @property
    @reading
    def grad_norm(self) -> Any:
        """The global norm of the last step's gradients, unscaled and before clipping, where it was measured.

        A 0-dimensional float64 array of the parameters' library, on their device and a copy, so that nothing waits until ``float()`` is
        asked of it. Steps measure with ``max_grad_norm``, ``skip_nonfinite`` or a `LossScaler`.

        Raises:
            RuntimeError: If the last step measured nothing.
        """
        return self._norms(0, ())

    @property
    @reading
    def group_grad_norms(self) -> Any:
        """The norm of each group, as an array like `grad_norm` of one dimension; with ``group_norms=True``."""
        if not self._group_norms:
            raise RuntimeError("the groups' norms are measured with group_norms=True")
        return self._norms(1, (len(self.param_groups),))

    def _norms(self, first: int, shape: tuple[int, ...]) -> Any:
        executor = self._dispatcher.executor
        if executor is None or not executor.planned.mode.measures:
            raise RuntimeError(
                "no norm was measured since the optimizer was made, loaded or added to, or the last step measured none: "
                "make it with max_grad_norm, inf to measure only"
            )
        with self._dispatcher.ordered():
            return np.zeros(shape) if executor.like is None else self._control.norms(executor.like, first, shape)

    @property
    @reading
    def steps_skipped(self) -> int:
        """How many steps were skipped so far; asking waits for the device."""
        return self._control.skipped

    # For what works beside the steps.

    def only_device(self, what: str) -> tuple[Engine, ArrayRef]:
        """The engine of the only device that the parameters are on, and one of them.

        Args:
            what: What needs them to be on one device, for the error.

        Raises:
            ValueError: If they are on several, or there is none.
        """
        if len(self._devices) != 1:
            raise ValueError(f"{what} needs an optimizer whose parameters are on one device")
        return self._params[0].engine, self._params[0].ref

    def ordered(self) -> AbstractContextManager[Any]:
        """A block: what the arrays' libraries queue in it comes after the last step, on whichever stream, and before the next one."""
        return self._dispatcher.ordered()

    @property
    @reading
    def plan(self) -> Plan:
        """Buckets, launches and bytes moved of the last step, or of the next one where none was yet; printable.

        Before the first step gradients that are not bound are taken to be like their parameters.
        """
        self._follow_groups()
        if self._dispatcher.executor is not None:
            return self._dispatcher.executor.planned.plan
        if self._swapped is None:
            self._dispatcher.look()
        self._read_hyperparameters()
        # Twins have places without taking any memory.
        twins = [replace(placed) for placed in self._params]
        place([twin for twin in twins if twin.place is None and not is_frozen(twin)])
        like = self._dispatcher.fresh_gradients(twins)
        pairs = zip(twins, self._bound.arrays, strict=True)
        like.update([None if is_frozen(twin) else twin.ref.array if bound is None else bound for twin, bound in pairs])
        _, mode = self._unscaled_asks()
        active = [twin for twin in twins if like.present[twin.index]]
        return plan_of(active, twins, like, self._dispatcher.steps, self._hyper, self._averaging, mode).plan
