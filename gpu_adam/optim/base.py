"""`GpuOptimizer`: parameters in, one `step` after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import starmap
from math import inf
from typing import Any, ClassVar, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..arrays import ArrayRef, assign, snapshot, to_host
from ..arrays.tree import read_structure
from ..checks import MOST_STEPS
from ..cuda.streams import handle_of
from ..device import Device
from ..dtypes import Format
from ..engines import ENGINES, Engine
from ..lazy import cached_property
from ..messages import a_kind, shown
from ..plan.cohorts import Mode
from ..plan.launches import Plan
from ..process.native import at_once
from ..process.sole import User, changing, reading
from ..process.tracing import untraced
from ..process.uninterrupted import uninterrupted
from ..rules.algorithm import Algorithm, Hyperparameters
from ..rules.hyperparameters import Averaging
from ..state import checkpoint
from ..state.frozen import is_frozen
from ..state.parameter import AVERAGE, Placed, narrowest, working_formats
from ..state.pickling import lasting, lay_out, order_of
from ..state.placement import place
from ..state.residence import Residence
from ..step.amp import HandedOver, handed_over
from ..step.bound import Bound
from ..step.captures import Captures
from ..step.control import Control
from ..step.dispatcher import Dispatcher
from ..step.graph import StepGraph
from ..step.loss_scaler import LossScaler
from ..step.request import Request
from ..step.scaling import UNSCALED, Scaling, max_norm, scaling_of
from ..step.settings import Limits
from ..step.updates import plan_of
from .averaged import Averaged
from .groups import is_groups
from .interface import keep_elsewhere, unexpected, unexpected_in_step
from .members import Added, Members


class Options(TypedDict, total=False):
    """The keyword arguments that every optimizer takes: see `GpuOptimizer`."""

    decoupled_weight_decay: bool
    maximize: bool
    engine: str
    pack: bool
    master_weights: bool | None
    max_grad_norm: float | None
    group_norms: bool
    skip_nonfinite: bool
    capturable: bool
    ema_decay: float | None
    polyak_average: bool


class GpuOptimizer:
    """What all optimizers are: everything but the algorithm, which a subclass names.

    A step computes in the caller's own memory, in float32 for parameters of 32 bits or fewer and in float64 for float64. First the gradient
    is scaled and weight decay applied, then the subclass's rule, each operation rounded as the rule's file states.

    Args:
        params: A list of arrays, a dict of them by name, a list of ``(name, array)``, or a list of groups: dicts with
            ``"params"`` and any of the hyperparameters. Arrays are NumPy's, CuPy's, Numba's device arrays, torch tensors,
            or anything writable with ``__cuda_array_interface__`` or ``__dlpack__``; float64, float32, float16 or bfloat16; of
            any shape and strides.
        hyperparameters: The algorithm's, by their keys in a group, with ``"lr"`` and ``"weight_decay"``. Some may be functions of the step
            number t = 1, 2, … (see `gpu_adam.schedules`); numbers may be 0-dimensional arrays.
        decoupled_weight_decay: Whether weight decay shrinks the parameter by ``lr * weight_decay``, as AdamW does, and is not added to
            the gradient (L2).
        maximize: Whether to follow the gradient upwards.
        engine: ``"cpu"``, ``"cupy"``, ``"numba"``, or ``"auto"``: for each device by where the arrays live and what is installed.
        pack: Whether to copy the parameters into flat buckets. `params` and `grads` are then views into them, and a step is a
            launch without a table. A torch tensor's own memory becomes its place in the bucket; of other libraries use the arrays in
            `params` from then on.
        master_weights: Whether 16-bit parameters keep a float32 copy that the arithmetic runs on; ``None`` means yes.
        max_grad_norm: What the global norm of all gradients is clipped to, at least 0: they are multiplied by
            ``min(1, max_grad_norm / (norm + 1e-6))`` as the update reads them. ``inf`` only measures; see `grad_norm`.
        group_norms: Whether each group's norm is measured as well; see `group_grad_norms`.
        skip_nonfinite: Whether a step changes nothing whose norm is not finite, or has a square, after scaling and clipping, that is not
            finite in the narrowest format that the parameters are computed in: above 1.8e19 in float32. See `steps_skipped`.
        capturable: Whether step counts and coefficients live on the device, so that a step can be captured in a CUDA graph; see `graph`.
            A 0-dimensional ``lr`` on a GPU is then read there.
        ema_decay: The decay, in [0, 1), of an exponential average of the parameters (the paper's section 7.2); see `averaged_params`.
        polyak_average: Whether their plain mean is kept instead.
        unknown: Any other keyword is refused; the error names the one that may have been meant.

    Raises:
        TypeError: For an array or a value of a kind that is not supported.
        ValueError: For a number out of its range, and for parameters that are read-only, come twice, or overlap in memory.
        EngineUnavailable: If the engine cannot run here.

    Attributes:
        algorithm: The rules and the hyperparameters; of the class.
        defaults: The hyperparameters of groups that do not say otherwise.
        param_groups: The groups, dicts with PyTorch's keys; editable between steps.
    """

    algorithm: ClassVar[Algorithm]
    _dispatcher: Dispatcher
    _bound: Bound
    _keys: list[tuple[Any, ...]]
    _hyper: list[Hyperparameters]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "algorithm" in vars(cls):
            keep_elsewhere(cls, cls.algorithm.keys, "a hyperparameter: read or edit param_groups[0][{name!r}]")

    @untraced
    def __init__(
        self,
        params: Any,
        hyperparameters: Mapping[str, Any],
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        engine: str = "auto",
        pack: bool = False,
        master_weights: bool | None = None,
        max_grad_norm: float | None = None,
        group_norms: bool = False,
        skip_nonfinite: bool = False,
        capturable: bool = False,
        ema_decay: float | None = None,
        polyak_average: bool = False,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise unexpected(type(self), unknown, Options.__annotations__)
        if engine not in ("auto", *ENGINES):
            raise ValueError(f"engine={shown(engine)}: use 'auto', {', '.join(map(repr, ENGINES))}")
        self.defaults: dict[str, Any] = {
            **hyperparameters,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        if set(self.defaults) != set(self.algorithm.keys):
            raise TypeError(f"hyperparameters are {sorted(self.defaults)}: must be {sorted(self.algorithm.keys)}")
        for name, flag in (
            ("pack", pack),
            ("group_norms", group_norms),
            ("skip_nonfinite", skip_nonfinite),
            ("capturable", capturable),
            ("polyak_average", polyak_average),
            ("master_weights", True if master_weights is None else master_weights),
        ):
            if not isinstance(flag, (bool, np.bool_)):
                raise TypeError(f"{name}={shown(flag)}: must be True or False")
        self._capturable = bool(capturable)
        self.algorithm.hyperparameters(self.defaults, "the defaults", read_lr=not self._capturable)
        self._engine_name = engine
        self._pack = pack
        self._master_weights = True if master_weights is None else bool(master_weights)
        self._averaging = Averaging.of(ema_decay, polyak_average)
        self._averages = {"ema_decay": ema_decay, "polyak_average": polyak_average}
        self.max_grad_norm = max_grad_norm
        self._group_norms = bool(group_norms)
        self._skip_nonfinite = bool(skip_nonfinite)
        self._control = Control()
        self._captures = Captures()
        self._users: dict[None, User] = {}
        self._swapped: tuple[object, list[tuple[Placed, Any]]] | None = None
        self.param_groups: list[dict[str, Any]] = []
        self._members = Members(
            self.algorithm,
            is_groups(params),
            engine=engine,
            pack=pack,
            master_weights=self._master_weights,
            read_lr=not self._capturable,
        )
        self._groups = self._members.groups
        grouped = self._groups.grouped
        self._add([dict(group) for group in params] if grouped else [{"params": params}], grouped)
        if not self._groups.grouped and not self._params:
            raise ValueError("params is empty: give the parameters, or [{'params': []}] where groups are added later")

    # Groups.

    @property
    def _params(self) -> list[Placed]:
        return self._members.params

    @changing
    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters, whose own step count starts at 0.

        Args:
            group: ``"params"`` as in the constructor, and any hyperparameters that differ from the constructor's.

        Raises:
            TypeError, ValueError: As in the constructor; nothing has changed then.
        """
        self._refuse_if_swapped()
        if not isinstance(group, Mapping):
            raise TypeError(f"the group is {a_kind(group)}: must be a dict with the parameters as its 'params'")
        self._add([dict(group)], grouped=True)

    def _add(self, groups: list[dict[str, Any]], grouped: bool) -> None:
        grown = False
        if self._params:
            grown = self._dispatcher.may_grow and len(self.param_groups) == len(self._groups.structures)
            if not grown:
                self._follow()
        added = self._members.described(groups, self.defaults, self.param_groups, grown=grown)
        uninterrupted(self._take_in, added, grouped)

    def _take_in(self, added: Added, grouped: bool) -> None:
        steps, bound = np.zeros(0, np.int64), list[Any]()
        residence: Residence | None = None
        if self._params:
            steps, bound = self._dispatcher.read_steps(), list(self._bound.arrays)
            residence = self._dispatcher.residence
        grads = self._members.add(added, self.param_groups)
        self._groups.grouped = grouped
        if residence is not None:
            residence.grow(self._params, added.params)
        self._rest(np.concatenate((steps, np.zeros(len(grads), np.int64))), [*bound, *grads], residence)

    def _follow(self, capturing: bool = False) -> None:
        """Take up what was done to the groups and to the parameters since the last step; nothing may have been while one is captured."""
        self._follow_groups(capturing)
        self._dispatcher.follow_memory(capturing)
        thawed = self._bound.thawed() if self._pack else []
        if thawed and capturing:
            raise RuntimeError(f"{thawed[0].label} was thawed, and a captured step cannot take it in: call step() once")
        if thawed:
            uninterrupted(self._pack_in, thawed)

    def _pack_in(self, thawed: Sequence[Placed]) -> None:
        grads = self._members.pack_in(thawed, self.param_groups)
        bound = [grads.get(k, array) for k, array in enumerate(self._bound.arrays)]
        self._rest(self._dispatcher.read_steps(), bound)

    def _follow_groups(self, capturing: bool = False) -> None:
        """Take up what was moved among the groups, by which no graph goes that was captured before."""
        if self._groups.hold(self.param_groups):
            return
        if capturing or self._is_captured:
            raise RuntimeError(
                "param_groups has other parameters, or in another order, than the graph that has captured a step: "
                "put them back, or make a new optimizer"
            )
        self._refuse_if_swapped()
        # What has been done to the parameters is not seen any more once they have been taken up anew.
        self._dispatcher.follow_memory()
        uninterrupted(self._regroup)

    def _regroup(self) -> None:
        steps, bound = self._dispatcher.read_steps(), self._bound.arrays
        earlier = self._members.regroup(self.param_groups, steps)
        self._rest(
            np.array([0 if k is None else steps[k] for k in earlier], np.int64),
            [None if k is None else bound[k] for k in earlier],
        )

    @property
    def _is_captured(self) -> bool:
        """Whether a graph of the caller's has captured a step."""
        executor = self._dispatcher.executor
        return bool(self._captures) or (executor is not None and executor.is_captured)

    def _rest(self, steps: NDArray[np.int64], bound: Sequence[Any], residence: Residence | None = None) -> None:
        """Forget everything that follows from the parameters and is found again at the next step."""
        dispatcher = vars(self).get("_dispatcher")
        if dispatcher is not None:
            # What a caller has captured is not forgotten.
            dispatcher.settle()
        for name in ("_devices", "_working", "_narrowest"):
            vars(self).pop(name, None)
        vars(self).update(self._remade(self._params, steps, bound, residence))
        self._captures.tell(steps)

    # What follows from the parameters; found when it is asked for, since groups may be added by the thousand.

    @cached_property
    def _devices(self) -> set[Device]:
        return {one.ref.device for one in self._params}

    @cached_property
    def _working(self) -> list[set[Format]]:
        """The working formats of each group's parameters."""
        return working_formats(self._params, len(self.param_groups))

    @cached_property
    def _narrowest(self) -> Format:
        return narrowest(self._working)

    def _remade(
        self, params: list[Placed], steps: NDArray[np.int64], bound: Sequence[Any], residence: Residence | None = None
    ) -> dict[str, Any]:
        """The attributes of an optimizer with these parameters and state; what follows from them is found again at the next step."""
        dispatcher = Dispatcher(
            params,
            steps,
            self._averaging,
            self._control,
            self._captures,
            1 + len(self.param_groups),
            pack=self._pack,
            capturable=self._capturable,
            residence=residence,
        )
        keys: list[tuple[Any, ...]] = []
        hyper: list[Hyperparameters] = []
        return {
            "_dispatcher": dispatcher,
            "_bound": Bound(params, bound, self._pack),
            "_keys": keys,
            "_hyper": hyper,
        }

    # Stepping.

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
                strides; or is a tuple of row numbers (n,) and row values (n, …), or a sparse torch tensor: then only these rows of the
                parameter and its state change, and values of the same row are summed. By default the bound ones: `grads`, and for
                torch tensors their ``.grad``; where arrays of other libraries have none bound, it is an error.
            grad_scale: What the gradients are divided by: a positive number, a 0-dimensional array, which is read on its device, or
                a `LossScaler`, which also skips steps that are not finite. PyTorch's ``GradScaler`` hands its own over by itself.
            stream: The CUDA stream to work on: CuPy's, PyTorch's or Numba's, or its handle. By default the current stream of
                the library that the arrays are of. On another stream, the memory of the gradients and of ``grad_scale`` must not be
                given to others before the step has read it: for PyTorch's tensors call their ``record_stream``.
            **unknown: None: any other keyword, such as PyTorch's ``closure``, is an error.

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

    def _refuse_if_swapped(self) -> None:
        if self._swapped is not None:
            raise RuntimeError("the parameters are their averages now: leave the block of averaged() first")

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
        limits, mode = self._limits(scaling), self._mode(scaling)
        return Request(self._hyper, scaling, limits, mode, arrays, arrays is self._bound.steady, stream, capturing)

    # Clipping, scaling, skipping.

    @property
    def max_grad_norm(self) -> float | None:
        """What the global norm of the gradients is clipped to; may be changed between steps."""
        return self._max_grad_norm

    @max_grad_norm.setter
    def max_grad_norm(self, value: float | None) -> None:
        self._max_grad_norm = None if value is None else max_norm(value)

    def _limits(self, scaling: Scaling) -> Limits:
        most = inf if self._max_grad_norm is None else self._max_grad_norm
        return Limits(most, self._skip_nonfinite or scaling.scaler is not None, self._narrowest)

    def _mode(self, scaling: Scaling) -> Mode:
        measures = self._max_grad_norm is not None or self._skip_nonfinite or scaling.scaler is not None
        on_device = measures or self._capturable or scaling.on_device
        if on_device and len({device.kind for device in self._devices}) > 1:
            raise ValueError(
                "clipping, skipping and device scales need all parameters on GPUs, or all on the CPU: make an optimizer for each"
            )
        return Mode(on_device, measures, measures and self._group_norms)

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
            return np.zeros(shape) if executor.first is None else self._control.norms(executor.first, first, shape)

    @property
    @reading
    def steps_skipped(self) -> int:
        """How many steps were skipped so far; asking waits for the device."""
        return self._control.skipped

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

    # Graphs.

    @changing
    def graph(self, grad_scale: Any = None) -> StepGraph:
        """A step with the bound gradients as a CUDA graph, to be replayed.

        Replaying is `step` with one launch: the same bits, with what was changed in `param_groups`, with gradients read from
        the arrays that are bound.

        Args:
            grad_scale: As for `step`, of every replay.

        Raises:
            RuntimeError: Without ``capturable=True``, on a CPU, which has no graphs, and for parameters on several devices.
        """
        if any(one.engine.name == "cpu" for one in self._params):
            raise RuntimeError("a CPU has no CUDA graphs: call step()")
        if not self._capturable:
            raise RuntimeError("a graph needs its coefficients on the device: make the optimizer with capturable=True")
        self.only_device("a graph")
        self._check_stream(None)
        executor = self._dispatcher.prepare(self._request(self._arrays(None), grad_scale, None))
        return StepGraph(self._replay, executor, uninterrupted(executor.graph), grad_scale)

    @changing
    def _replay(self, graph: StepGraph, stream: Any) -> None:
        on = None if stream is None else handle_of(stream)
        if self._check_stream(on):
            raise RuntimeError("a graph's replay cannot be captured in another graph: capture step() there")
        executor, arrays = graph.executor, self._arrays(None)
        holds = self._dispatcher.executor is executor
        if not (holds and self._dispatcher.prepare(self._request(arrays, graph.grad_scale, on)) is executor):
            raise RuntimeError(
                "the optimizer's plan has changed since the graph was captured: make another with graph()"
            )
        self._dispatcher.run(executor, on, lambda _: graph.launch(on))

    @changing
    def prepare_replay(self, stream: Any = None) -> None:
        """Send what was changed in `param_groups`, before a graph is replayed that captured `step` together with other work.

        Only where something has changed is it needed; where a hyperparameter is a function of the step, before each replay. It then waits
        for the device. `graph` does so by itself, without waiting. Graphs that were captured before the plan changed are reached as
        well, also by the count of the steps that were made since.

        Args:
            stream: As for `step`: where the graph will be replayed.

        Raises:
            RuntimeError: If no step can have been captured, or the update rule is another one now.
        """
        executor = self._dispatcher.executor
        if (executor is None and not self._captures) or not self._capturable:
            raise RuntimeError("no step was captured: capturable=True, and a step before the capture")
        self._read_hyperparameters()
        on = None if stream is None else handle_of(stream)
        scaling = self._dispatcher.scaling
        limits, mode = self._limits(scaling), self._mode(scaling)
        request = Request(self._hyper, scaling, limits, mode, stream=on, follows_replays=True)
        if not (self._dispatcher.executor is executor and self._dispatcher.prepare_replay(request)):
            raise RuntimeError(
                "the update rule or what its states begin with has changed, and a graph has the old one: "
                "capture step() again"
            )

    # The average of the parameters.

    @property
    @reading
    def averaged_params(self) -> Any:
        r"""The average of the parameters over the steps so far, in the structure of `params`.

        Views of the state, in float32 (float64 for float64 parameters), which the steps go on updating: copy what is to stay. A
        parameter without a gradient keeps its average too; of one that was never stepped it is a copy of the parameter. What the
        library's current stream does next comes after the last step. With
        ``ema_decay=β`` it is :math:`\bar\theta_t / (1-\beta^t)` where :math:`\bar\theta_t = \beta \bar\theta_{t-1} +
        (1-\beta)\theta_t` (Kingma and Ba, 2014, section 7.2), with ``polyak_average=True`` the plain mean.

        Raises:
            RuntimeError: If the optimizer keeps no average.
        """
        self._require_average()
        self._follow_groups()
        if self._swapped is None:
            self._dispatcher.look()
        steps = self._dispatcher.read_steps()
        pairs = [(placed, steps[placed.index]) for placed in self._params]
        with self._dispatcher.ordered():
            averages = [
                placed.view(AVERAGE) if t else placed.apart(AVERAGE, to_host(placed.ref.array)) for placed, t in pairs
            ]
        return self._groups.build(averages)

    def averaged(self) -> AbstractContextManager[None]:
        """A block in which the parameters are their averages, rounded to their formats; after it they are what they were, to the bit.

        They are put back on the streams that were current at its beginning.

        Raises:
            RuntimeError: If the optimizer keeps no average. Inside the block, for another such block, a step, and all else that would
                change the parameters or take them for what they are not.
        """
        return Averaged(self._begin_block, self._end_block)

    @changing
    def _begin_block(self, block: object) -> None:
        self._require_average()
        self._refuse_if_swapped()
        self._follow()
        uninterrupted(self._swap_in, block)

    def _swap_in(self, block: object) -> None:
        self._dispatcher.begin_averages()
        # The average of a parameter that was never stepped is the parameter.
        steps = self._dispatcher.read_steps()
        stepped = [placed for placed in self._params if steps[placed.index]]
        with self._dispatcher.ordered():
            # Where it fails on the way, the block's end puts back what they were.
            self._swapped = block, [(placed, snapshot(placed.ref)) for placed in stepped]
            for placed in stepped:
                assign(placed.ref, placed.view(AVERAGE))
        # Nobody has written to the parameters, as far as their master weights are concerned.
        self._dispatcher.residence.forget_writes()

    def _end_block(self, block: object) -> None:
        """Make the parameters what they were, where this is the block that changed them."""
        if self._swapped is None or self._swapped[0] is not block:
            return
        _, kept = self._swapped
        errors: list[Exception] = []
        with self._dispatcher.ordered():
            for placed, value in kept:
                try:
                    assign(placed.ref, value)
                except Exception as error:
                    # One that was reshaped in the block must not cost the others what they were.
                    errors.append(error)
        self._dispatcher.residence.forget_writes()
        self._swapped = None
        if errors:
            raise errors[0]

    def _require_average(self) -> None:
        if not self._averaging:
            raise RuntimeError(
                "the optimizer keeps no average of the parameters: make it with ema_decay or polyak_average"
            )

    def _read_hyperparameters(self, capturing: bool = False) -> None:
        """Take up what was edited in `param_groups`; ``capturing`` tells whether a step is being captured in a graph."""
        algorithm, read_lr = self.algorithm, not self._capturable
        named = [(group, f"group {number}") for number, group in enumerate(self.param_groups)]
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
                raise RuntimeError(
                    "the update rule of a captured step differs from that of the step before, which compiled it: "
                    "call step() once before the capture"
                )
            self._dispatcher.settle()
        # In this order: where an exception comes in between, they are read again.
        self._hyper = hyper
        self._keys = keys

    @changing
    def reread_params(self) -> None:
        """Take up 16-bit parameters that were written to by hand since their last step.

        Where a parameter is no longer what its float32 master weight rounds to, the master weight takes its value. For torch
        tensors a step does so by itself (not for writes through ``p.data``, which torch does not tell of); arrays of other libraries cannot
        tell that they were written to.
        """
        self._refuse_if_swapped()
        self._dispatcher.follow_memory()
        with self._dispatcher.ordered():
            for placed in self._params:
                placed.reread_master()

    # Gradients.

    @property
    @untraced
    def params(self) -> Any:
        """The arrays that are updated, in the structure in which they were given; with groups, a list of these."""
        return self._groups.build([placed.ref.array for placed in self._params])

    @property
    @untraced
    def grads(self) -> Any:
        """The bound gradients, in the structure of `params`; with ``pack=True`` views of the buckets, for torch tensors their ``.grad``.

        Assign arrays of the same structure to bind them: `step` without an argument then uses them, and checks them again only where one
        was reshaped, retyped or resized in place. With ``pack=True`` there is nothing to assign: write into the views.
        """
        return self._groups.build(self._bound.current())

    @grads.setter
    @changing
    def grads(self, grads: Any) -> None:
        arrays = self._groups.flatten(grads)
        if self._pack:
            raise ValueError("pack=True binds its own gradients: write into opt.grads, or call step(grads)")
        if self._bound.torch:
            raise ValueError("torch tensors bind their own gradients: set .grad, or call step(grads)")
        self._dispatcher.check_gradients(arrays)
        self._bound.bind(arrays)

    @changing
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the bound gradients.

        With ``pack=True`` and for arrays that were bound they are filled with zeros.

        Args:
            set_to_none: Whether a torch tensor's ``.grad`` becomes ``None``, as in PyTorch, and is not filled with zeros.
        """
        with self._dispatcher.ordered():
            self._bound.clear(set_to_none)

    # Looking at it.

    @property
    @reading
    def plan(self) -> Plan:
        """All that the last step ran, or the next one will where none was yet: buckets, launches and bytes moved; printable.

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
        mode, steps = self._mode(UNSCALED), self._dispatcher.steps
        return plan_of(twins, like, steps, self._hyper, self._averaging, mode).plan

    @untraced
    def __repr__(self) -> str:
        groups = "".join(
            f"\n  group {number}: {len(group['params'])} parameters, "
            + ", ".join(f"{key}={group[key]!r}" for key in self.algorithm.keys)
            for number, group in enumerate(self.param_groups)
        )
        engines = ", ".join(sorted({one.engine.name for one in self._params})) or self._engine_name
        usual = {"max_grad_norm": None, "ema_decay": None, "master_weights": True}
        chosen = "".join(
            f", {name}={value!r}"
            for name, value in self._options().items()
            if name not in ("engine", "pack") and value != usual.get(name, False)
        )
        return f"{type(self).__name__}(engine={engines}, pack={self._pack}{chosen}){groups}"

    def _options(self) -> dict[str, Any]:
        """What the optimizer was made with, besides parameters and hyperparameters."""
        return {
            "engine": self._engine_name,
            "pack": self._pack,
            "master_weights": self._master_weights,
            "max_grad_norm": self._max_grad_norm,
            "group_norms": self._group_norms,
            "skip_nonfinite": self._skip_nonfinite,
            "capturable": self._capturable,
            **self._averages,
        }

    # State.

    @reading
    def state_dict(self) -> dict[str, Any]:
        """A copy of the state, in the layout of PyTorch's optimizer of the same name.

        Returns:
            ``{"state": {i: {"step": t, …}}, "param_groups": [...]}``: of each parameter the states of the rule by name (of Adam
            ``"exp_avg"`` and ``"exp_avg_sq"``), ``"master"`` and ``"average"`` where they are kept. The arrays have the parameters'
            shapes, libraries and devices, and the working format; numbers are Python's own. Parameters that were never stepped are
            absent, as in PyTorch. Where a step is refused because parameters have changed or been replaced, it is the state of what they
            were.
        """
        try:
            self._follow_groups()
        except (TypeError, ValueError):
            # The remedy may be a new optimizer, which wants the state.
            if not self._groups.are_in_place(self.param_groups):
                raise
        written = self._dispatcher.look() if self._swapped is None else ()
        steps = self._dispatcher.read_steps()
        with self._dispatcher.ordered():
            saved = checkpoint.save(
                self.algorithm, self.param_groups, self._groups.structures, self._params, steps, written
            )
        return {**saved, "steps_skipped": min(self.steps_skipped, MOST_STEPS)}

    @changing
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a state, saved by `state_dict` or by PyTorch's optimizer of the same name; the next step is then the same to the bit.

        Weights may be loaded before or after: where a float32 master weight does not round to the parameter as it is at the next
        step, the parameter counts.

        Args:
            state_dict: As `state_dict` returns it, its arrays of any library and on any device; it is not modified. If it has names and the
                parameters have, they are matched by name, else by place.

        Raises:
            TypeError, ValueError: If it does not fit: other groups, names or shapes, missing keys. Nothing has changed then, nor after
                any other error.
        """
        self._refuse_if_swapped()
        self._follow()
        averages = bool(self._averaging)
        loaded = checkpoint.check(
            self.algorithm, state_dict, self.param_groups, self._groups.structures, self._params, averages
        )
        captured = self._is_captured
        if captured:
            self._dispatcher.settle()
        # Made beside the old state, and put in its place when nothing can fail any more.
        # What the state lacks is read from the parameters, which the last step may still be writing to.
        with self._dispatcher.ordered():
            params = checkpoint.renewed(loaded, self._params, averages, keep_places=captured)
        steps = np.array(loaded.steps, np.int64)
        remade = self._remade(params, steps, self._bound.arrays)
        changes: list[tuple[dict[str, Any], Mapping[str, Any]]] = [
            (vars(self), remade),
            (vars(self._members), {"params": params}),
            (vars(self._control), self._control.restarted(loaded.steps_skipped)),
            *zip(self.param_groups, loaded.groups, strict=True),
        ]
        uninterrupted(self._take_over, changes, steps, captured)

    def _take_over(self, changes: Sequence[Any], steps: NDArray[np.int64], captured: bool) -> None:
        # Held until all is done: what is destroyed may run code.
        before = self._params, self._dispatcher
        at_once(starmap(dict.update, changes))
        if captured:
            checkpoint.return_memory(before[0], self._params)
            self._captures.tell(steps)
        del before

    @reading
    def __getstate__(self) -> dict[str, Any]:
        self._refuse_if_swapped()
        self._follow_groups()
        groups = zip(self.param_groups, self._groups.structures, strict=True)
        return {
            "groups": [
                {
                    **{key: group[key] for key in self.algorithm.keys},
                    "params": structure.build(group["params"]),
                }
                for group, structure in groups
            ],
            "orders": [order_of(one.ref) for one in self._params],
            "grouped": self._groups.grouped,
            "defaults": self.defaults,
            "options": self._options(),
            "state_dict": lasting(self.state_dict(), self.param_groups),
            "bound": list(self._bound.current() if self._pack else self._bound.arrays),
        }

    @untraced
    def __setstate__(self, saved: dict[str, Any]) -> None:
        common = {key: saved["defaults"][key] for key in ("decoupled_weight_decay", "maximize")}
        own = {key: value for key, value in saved["defaults"].items() if key not in common}
        arrays = [one for group in saved["groups"] for one in read_structure(group["params"], "params")[1]]
        for array, order in zip(arrays, saved.get("orders", ()), strict=False):
            lay_out(array, order)
        # Not that of the subclass, which may take other arguments.
        GpuOptimizer.__init__(self, saved["groups"], own, **common, **saved["options"])
        self._groups.grouped = saved["grouped"]
        self.load_state_dict(saved["state_dict"])
        if self._pack:
            for placed, value in zip(self._params, saved["bound"], strict=True):
                if value is not None and placed.has("grad"):
                    placed.write("grad", to_host(value))
                elif placed.ref.family == "torch":
                    placed.ref.array.grad = value
        else:
            self._bound.bind(saved["bound"])


keep_elsewhere(GpuOptimizer, Options.__annotations__, "chosen when the optimizer is made")
