"""`GpuAdam`: parameters in, one `step` after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter, is_, itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import checkpoint
from .arrays import ArrayRef, to_host, zero
from .engines import ENGINES, Engine, engine_named, gpu_engine
from .gradients import Gradients
from .hyperparameters import FLAGS, KEYS, Hyperparameters, LearningRate, number, two_betas
from .kernels.rules import RULES
from .layout import MAX_DIMS, Device, Extent, pack, walk
from .parameters import Residence, check_apart, param_ref
from .plan import Plan
from .schedule import Schedule, current_stream
from .state import BucketState, Placed
from .structure import Structure, is_pair, ordered, read_structure


class GpuAdam:
    r"""Adam (Kingma and Ba, 2014), with AMSGrad and AdamW as options, on GPUs and CPUs with the same bits.

    Step :math:`t` moves a parameter :math:`\theta` with gradient :math:`g` by

    .. math::
        m &= \beta_1 m + (1-\beta_1) g, \qquad v = \beta_2 v + (1-\beta_2) g^2 \\
        \theta &= \theta - \alpha \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}

    in the caller's own memory, in float32 for parameters of 32 bits or fewer and in float64 for float64, each operation rounded as
    `gpu_adam.kernels.adam` states. With ``eps=0`` an element whose gradients were all zero becomes 0/0, which is NaN.

    Args:
        params: A list of arrays, a dict of them by name, a list of ``(name, array)``, or a list of groups: dicts with
            ``"params"`` and any of the hyperparameters below. Arrays are NumPy's, CuPy's, Numba's device arrays, torch tensors,
            or anything writable with ``__cuda_array_interface__`` or ``__dlpack__``; float64, float32, float16 or bfloat16; of
            any shape and strides.
        lr: The learning rate α, at least 0; or a function of the step number t = 1, 2, …; or a 0-dimensional array.
        betas: β1 and β2, in [0, 1).
        eps: ε, at least 0.
        weight_decay: At least 0; L2 decay, which is added to the gradient.
        decoupled_weight_decay: Whether decay shrinks the parameter by ``lr * weight_decay`` instead (AdamW).
        amsgrad: Whether to divide by the largest second moment so far (Reddi, Kale and Kumar, 2018).
        maximize: Whether to follow the gradient upwards.
        bias_correction: Whether to divide by :math:`1-\beta^t`.
        eps_hat: Whether ``eps`` is the paper's ε̂ (end of its section 2): α√(1-β2^t)/(1-β1^t) · m/(√v + ε̂).
        engine: ``"cpu"``, ``"cupy"``, ``"numba"``, or ``"auto"``: for each device by where the arrays live and what is installed.
        pack: Whether to copy the parameters into flat buckets. `params` and `grads` are then views into them, and a step looks
            nothing up. A torch tensor's own memory becomes its place in the bucket; of other libraries use the arrays in
            `params` from then on.
        master_weights: Whether 16-bit parameters keep a float32 copy that the arithmetic runs on; ``None`` means yes.

    Raises:
        TypeError: For an array or a value of a kind that is not supported.
        ValueError: For a number out of its range, and for parameters that are read-only, come twice, or overlap in memory.
        EngineUnavailable: If the engine cannot run here.

    Example:
        >>> import numpy as np
        >>> from gpu_adam import GpuAdam
        >>> w = np.zeros((2, 3), np.float32)
        >>> opt = GpuAdam({"w": w}, lr=0.1)
        >>> for _ in range(200):
        ...     opt.step({"w": w - 1})  # the gradient of (w - 1)²/2
        >>> bool(abs(w - 1).max() < 0.01)
        True
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        amsgrad: bool = False,
        maximize: bool = False,
        bias_correction: bool = True,
        eps_hat: bool = False,
        engine: str = "auto",
        pack: bool = False,
        master_weights: bool | None = None,
    ) -> None:
        if engine not in ("auto", *ENGINES):
            raise ValueError(f"engine={engine!r}: use 'auto', {', '.join(map(repr, ENGINES))}")
        self.defaults: dict[str, Any] = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "bias_correction": bias_correction,
            "eps_hat": eps_hat,
        }
        Hyperparameters.of_group(self.defaults, "the defaults")
        self._engine_name = engine
        self._pack = pack
        self._master_weights = True if master_weights is None else bool(master_weights)
        self.param_groups: list[dict[str, Any]] = []
        self._structures: list[Structure] = []
        self._params: list[Placed] = []
        self._grouped = _is_groups(params)
        self._steps: NDArray[np.int64] = np.zeros(0, np.int64)
        self._bound: list[Any] = []
        self._states: list[BucketState] = []
        self._add([dict(group) for group in params] if self._grouped else [{"params": params}])

    # Groups.

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters, whose own step count starts at 0.

        Args:
            group: ``"params"`` as in the constructor, and any hyperparameters that differ from the constructor's.

        Raises:
            TypeError, ValueError: As in the constructor; nothing has changed then.
        """
        self._add([dict(group)])
        self._grouped = True

    def _add(self, groups: list[dict[str, Any]]) -> None:
        if self._params:
            self._follow_memory()
        structures: list[Structure] = []
        added: list[dict[str, Any]] = []
        refs: list[tuple[int, str, ArrayRef]] = []
        for index, group in enumerate(groups, start=len(self.param_groups)):
            where = f"group {index}"
            if "params" not in group:
                raise ValueError(f"{where} has no 'params'")
            unknown = sorted(set(group) - {"params", "name", *KEYS})
            if unknown:
                raise ValueError(f"{where} has unknown keys {unknown}: use {', '.join(('params', *KEYS))}")
            structure, leaves = read_structure(group["params"], f"params of {where}")
            filled = {**group, "params": leaves, **{key: group.get(key, self.defaults[key]) for key in KEYS}}
            Hyperparameters.of_group(filled, where)
            structures.append(structure)
            added.append(filled)
            for name, leaf in zip(structure.names, leaves, strict=True):
                label = f"parameter {name!r}" if structure.named else f"parameter {name} of {where}"
                refs.append((index, label, param_ref(leaf, label)))
        check_apart([(placed.label, placed.ref) for placed in self._params] + [entry[1:] for entry in refs])
        engines = {ref.device: self._engine_for(ref.device, label) for _, label, ref in refs}
        base = len(self._params)
        extents = [self._extent(base + k, label, ref) for k, (_, label, ref) in enumerate(refs)]
        states = [BucketState(bucket, engines[bucket.device]) for bucket in pack(extents, aligned=self._pack)]
        placed = []
        for state in states:
            state.ensure((*(("param", "grad") if self._pack else ()), *(("master",) if state.bucket.master else ())))
            for segment in state.bucket.segments:
                placed.append(Placed(segment.index, *refs[segment.index - base], state, segment))
        placed.sort(key=lambda one: one.index)
        # Nothing has changed up to here, and nothing is refused from here on.
        for one in placed:
            if one.master:
                one.write("master", to_host(one.ref.array))
            if self._pack:
                one.move_into_bucket()
        for index, group in enumerate(added, start=len(self.param_groups)):
            group["params"] = [one.ref.array for one in placed if one.group == index]
        self.param_groups.extend(added)
        self._structures.extend(structures)
        self._params.extend(placed)
        self._states.extend(states)
        self._steps = np.concatenate((self._steps, np.zeros(len(placed), np.int64)))
        self._bound = [*self._bound, *(one.bind_gradient() if self._pack else None for one in placed)]
        self._rest()

    def _rest(self) -> None:
        """Forget everything that follows from the parameters and is found again at the next step."""
        self._gradients = Gradients(self._params)
        self._schedule: Schedule | None = None
        self._seen: Sequence[Any] | None = None
        self._keys: list[tuple[Any, ...]] = []
        self._hyper: list[Hyperparameters] = []
        self._residence = Residence(self._params)
        self._sizes = [len(structure.names) for structure in self._structures]
        gpus = {one.ref.device: one for one in self._params if one.ref.device.kind != "cpu"}
        self._lanes = [(one.state.engine, device, one.ref.family) for device, one in gpus.items()]
        self._torch = [one for one in self._params if one.ref.family == "torch"]
        self._tensors = [one.ref.array for one in self._torch]

    def _extent(self, index: int, label: str, ref: ArrayRef) -> Extent:
        if self._pack and ref.family == "foreign":
            raise TypeError(
                f"{label} is a {type(ref.array).__name__}: pack=True works with NumPy, CuPy, Numba and torch arrays"
            )
        dims = len(walk(ref.shape, ref.strides, ref.strides).shape)
        if dims > MAX_DIMS:
            raise ValueError(f"{label} needs {dims} strided dimensions: at most {MAX_DIMS} are supported")
        master = self._master_weights and ref.format.itemsize == 2
        return Extent(index, ref.device, ref.format, ref.shape, ref.strides, ref.address, master)

    def _engine_for(self, device: Device, label: str) -> Engine:
        if self._engine_name == "auto":
            return engine_named("cpu") if device.kind == "cpu" else gpu_engine()
        engine = engine_named(self._engine_name)
        if engine.kind != device.kind:
            raise ValueError(
                f"{label} lives on {device}, where engine={self._engine_name!r} does not work: "
                "move the array, or use engine='auto'"
            )
        return engine

    # Stepping.

    def step(self, grads: Any = None) -> None:
        """Update every parameter that has a gradient.

        Args:
            grads: The gradients, in the structure in which the parameters were given, ``None`` for a parameter that is to be
                left alone, its step count too. Each has its parameter's shape and device, any of the four formats and any
                strides. By default the bound ones: `grads`, and for torch tensors their ``.grad``; where arrays of other
                libraries have none bound, it is an error.

        Raises:
            TypeError, ValueError: For a gradient that does not fit its parameter, or a hyperparameter that makes no sense.
                Nothing has changed then: no parameter, no state, no step count.
        """
        for engine, device, family in self._lanes:
            engine.check_stream(device, current_stream(family, device))
        self._follow_memory()
        self._read_hyperparameters()
        arrays = self._bound_arrays() if grads is None else self._flatten(grads)
        if arrays is not self._seen:
            self._take_gradients(arrays)
        schedule = self._scheduled()
        schedule.prepare(self._steps, self._hyper)
        # Counted first: an interrupt is delivered when the kernels are done, and must not find them uncounted.
        self._steps[schedule.active] += 1
        try:
            schedule.run()
        except Exception:
            self._steps[schedule.active] -= 1
            raise
        self._residence.stepped(schedule.tensors)

    def _take_gradients(self, arrays: Sequence[Any]) -> None:
        self._seen = None
        if arrays is self._bound and not self._torch and arrays and all(array is None for array in arrays):
            raise ValueError("there are no gradients: call step(grads), or assign opt.grads first")
        reshaped, moved = self._gradients.update(arrays)
        # Put back when it is known to fit: should anything fail in between, the next step makes a new one.
        schedule, self._schedule = self._schedule, None
        # Gradients that have come back into the buckets deserve the flat kernels again.
        home = not self._pack or arrays is not self._bound or schedule is None or schedule.is_flat
        if schedule is not None and not reshaped and home and (not moved or schedule.rebind(moved)):
            self._schedule = schedule
        if arrays is self._bound and (self._pack or self._gradients.settled):
            self._seen = arrays

    def _scheduled(self) -> Schedule:
        if self._schedule is None:
            for placed in self._params:
                if self._steps[placed.index] == 0:
                    # The parameter may have been loaded or initialised since; its master weight has nothing to lose yet.
                    placed.reread_master()
                if self._gradients.shape(placed.index) is not None:
                    placed.state.ensure(RULES[self._hyper[placed.group].rule].states)
            schedule = Schedule(self._params, self._gradients, self._steps, self._hyper)
            schedule.load()
            self._schedule = schedule
        return self._schedule

    def _read_hyperparameters(self) -> None:
        """Take up what was edited in `param_groups`."""
        sizes = [len(group["params"]) for group in self.param_groups]
        if sizes != self._sizes:
            raise ValueError(
                f"param_groups has groups of {sizes} parameters, not of {self._sizes}: use add_param_group()"
            )
        keys = [_group_key(group, f"group {number}") for number, group in enumerate(self.param_groups)]
        if keys == self._keys:
            return
        hyper = [Hyperparameters.of_group(group, f"group {number}") for number, group in enumerate(self.param_groups)]
        if [h.rule for h in hyper] != [h.rule for h in self._hyper]:
            self._schedule = None
        self._keys, self._hyper = keys, hyper

    def _follow_memory(self) -> None:
        """Take up what was done to the parameters' memory since the last step."""
        moved = self._residence.moved()
        if moved:
            for placed, ref in moved:
                placed.ref = ref
                placed.reread_master()
            self._rest()
        for placed in self._residence.written():
            placed.reread_master()

    def reread_params(self) -> None:
        """Take up 16-bit parameters that were written to by hand since the last step.

        Where a parameter is no longer what its float32 master weight rounds to, the master weight takes its value. For torch
        tensors a step does so by itself (not for writes through ``p.data``, which torch does not tell of); arrays of other libraries cannot
        tell that they were written to.
        """
        for placed in self._params:
            placed.reread_master()

    # Gradients.

    def _bound_arrays(self) -> Sequence[Any]:
        if not self._torch:
            return self._bound
        if len(self._torch) == len(self._params):
            arrays = list(map(_grad_of, self._tensors))
        else:
            arrays = [
                placed.ref.array.grad if placed.ref.family == "torch" else bound
                for placed, bound in zip(self._params, self._bound, strict=True)
            ]
        # The buckets' own views, untouched, count as one object, so that nothing is looked up tensor by tensor.
        same = all(map(is_, arrays, self._bound)) and (not self._pack or self._residence.gradients_are_home())
        return self._bound if same else arrays

    def _flatten(self, grads: Any) -> list[Any]:
        if not self._grouped:
            return self._structures[0].flatten(grads, "grads")
        leaves = grads if isinstance(grads, Mapping) else ordered(grads, "grads")
        if isinstance(leaves, list) and len(leaves) == len(self._structures) and any(map(_is_tree, leaves)):
            parts = zip(self._structures, leaves, strict=True)
            return [
                leaf
                for number, (structure, tree) in enumerate(parts)
                for leaf in structure.flatten(tree, f"grads of group {number}")
            ]
        names = tuple(name for structure in self._structures for name in structure.names)
        named = all(structure.named for structure in self._structures)
        if named and len(set(names)) < len(names):
            if isinstance(leaves, Mapping) or any(map(is_pair, leaves)):
                raise ValueError("grads go by name, but groups share names: give a list of the gradients of each group")
            named = False
        return Structure("pairs" if named else "list", names).flatten(leaves, "grads")

    def _build(self, leaves: Sequence[Any]) -> Any:
        built = []
        start = 0
        for structure in self._structures:
            built.append(structure.build(leaves[start : start + len(structure.names)]))
            start += len(structure.names)
        return built if self._grouped else built[0]

    @property
    def params(self) -> Any:
        """The arrays that are updated, in the structure in which they were given; with groups, a list of these."""
        return self._build([placed.ref.array for placed in self._params])

    @property
    def grads(self) -> Any:
        """The bound gradients, in the structure of `params`: with ``pack=True`` views of the buckets, for torch tensors their ``.grad``.

        Assign arrays of the same structure to bind them: `step` without an argument then uses them, and looks at them only once. With
        ``pack=True`` there is nothing to assign: write into the views.
        """
        return self._build(self._bound_arrays())

    @grads.setter
    def grads(self, grads: Any) -> None:
        arrays = self._flatten(grads)
        if self._pack:
            raise ValueError("pack=True binds its own gradients: write into opt.grads, or call step(grads)")
        if any(placed.ref.family == "torch" for placed in self._params):
            raise ValueError("torch tensors bind their own gradients: set .grad, or call step(grads)")
        self._gradients.check(arrays)
        self._bound, self._seen = arrays, None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the bound gradients.

        With ``pack=True`` and for arrays that were bound they are filled with zeros.

        Args:
            set_to_none: Whether a torch tensor's ``.grad`` becomes ``None``, as in PyTorch, and is not filled with zeros.
        """
        if self._pack:
            for state in self._states:
                zero(state.flat_view("grad", self._like(state)))
            for placed, bound in zip(self._params, self._bound, strict=True):
                if placed.ref.family == "torch":
                    placed.ref.array.grad = bound
            return
        for placed, bound in zip(self._params, self._bound, strict=True):
            if placed.ref.family == "torch" and set_to_none:
                placed.ref.array.grad = None
            else:
                gradient = placed.ref.array.grad if placed.ref.family == "torch" else bound
                if gradient is not None:
                    zero(gradient)

    def _like(self, state: BucketState) -> ArrayRef:
        return self._params[state.bucket.segments[0].index].ref

    # Looking at it.

    @property
    def plan(self) -> Plan:
        """The schedule of the last step, or of the next one where none was yet: buckets, launches, bytes moved; printable.

        Before the first step gradients that are not bound are taken to be like their parameters.
        """
        if self._schedule is not None:
            return self._schedule.plan
        self._follow_memory()
        self._read_hyperparameters()
        like = Gradients(self._params)
        pairs = zip(self._params, self._bound, strict=True)
        like.update([placed.ref.array if bound is None else bound for placed, bound in pairs])
        return Schedule(self._params, like, self._steps, self._hyper).plan

    def __repr__(self) -> str:
        groups = "".join(
            f"\n  group {number}: {len(group['params'])} parameters, "
            + ", ".join(f"{key}={group[key]!r}" for key in KEYS)
            for number, group in enumerate(self.param_groups)
        )
        engines = ", ".join(sorted({state.engine.name for state in self._states})) or self._engine_name
        return f"{type(self).__name__}(engine={engines}, pack={self._pack}){groups}"

    # State.

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state, in the layout of PyTorch's Adam.

        Returns:
            ``{"state": {i: {"step": t, "exp_avg": m, "exp_avg_sq": v}}, "param_groups": [...]}``, with ``"max_exp_avg_sq"`` and
            ``"master"`` where they are kept. The arrays have the parameters' shapes, libraries and devices, and the working
            format. Parameters that were never stepped are absent, as in PyTorch.
        """
        self._follow_memory()
        return checkpoint.save(self.param_groups, self._structures, self._params, self._steps)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a state, saved by `state_dict` or by ``torch.optim.Adam``; the next step is then the same to the bit.

        Args:
            state_dict: As `state_dict` returns it, its arrays of any library and on any device; it is not modified.

        Raises:
            TypeError, ValueError: If it does not fit: other groups, names or shapes, missing keys. Nothing has changed then.
        """
        loaded = checkpoint.check(state_dict, self.param_groups, self._structures, self._params)
        checkpoint.apply(loaded, self.param_groups, self._params, self._steps)
        self._rest()

    def __getstate__(self) -> dict[str, Any]:
        groups = zip(self.param_groups, self._structures, strict=True)
        return {
            "groups": [
                {**{key: group[key] for key in KEYS}, "params": structure.build(group["params"])}
                for group, structure in groups
            ],
            "grouped": self._grouped,
            "defaults": self.defaults,
            "options": {"engine": self._engine_name, "pack": self._pack, "master_weights": self._master_weights},
            "state_dict": self.state_dict(),
            "bound": list(self._bound_arrays() if self._pack else self._bound),
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__init__(saved["groups"], **saved["defaults"], **saved["options"])  # type: ignore[misc]
        self._grouped = saved["grouped"]
        self.load_state_dict(saved["state_dict"])
        if self._pack:
            for placed, value in zip(self._params, saved["bound"], strict=True):
                if value is not None:
                    placed.write("grad", to_host(value))
                else:
                    placed.ref.array.grad = None
        else:
            self._bound = saved["bound"]


def _is_groups(params: Any) -> bool:
    return isinstance(params, (list, tuple)) and bool(params) and all(isinstance(group, Mapping) for group in params)


def _is_tree(leaf: Any) -> bool:
    return isinstance(leaf, (list, tuple, Mapping)) and not is_pair(leaf)


_grad_of = attrgetter("grad")
_other_values = itemgetter(*FLAGS)
_NUMBERS = ("lr", "eps", "weight_decay", "betas[0]", "betas[1]")


def _group_key(group: Mapping[str, Any], where: str) -> tuple[Any, ...]:
    """What is compared from step to step: the values themselves, also of arrays and lists that are edited in place."""
    try:
        values = [group["lr"], group["eps"], group["weight_decay"], *two_betas(group["betas"], where)]
        for k, value in enumerate(values):
            if type(value) is not float and not (k == 0 and callable(value)):
                values[k] = number(value, _NUMBERS[k], where)
        return (*values, *_other_values(group))
    except KeyError as error:
        raise ValueError(f"{where} has lost its {error.args[0]!r}") from None
