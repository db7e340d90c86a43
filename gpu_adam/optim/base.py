"""`GpuOptimizer`: parameters in, one `step` after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from ..arrays import to_host
from ..arrays.tree import read_structure
from ..checks import flag
from ..engines import ENGINES
from ..messages import shown
from ..process.sole import User, reading
from ..process.tracing import untraced
from ..rules.hyperparameters import Averaging
from ..state.parameter import Placed
from ..state.pickling import lasting, lay_out, order_of
from ..step.captures import Captures
from ..step.control import Control
from .groups import is_groups
from .interface import keep_elsewhere, unexpected
from .members import Members
from .saving import StateLayer


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


class GpuOptimizer(StateLayer):
    """What all optimizers are: everything but the algorithm, which a subclass names.

    For PyTorch's schedulers, trainers and checkpoints ``gpu_adam.torch`` has the same optimizers as `torch.optim.Optimizer`.

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
        self._pack = flag(pack, "pack")
        self._group_norms = flag(group_norms, "group_norms")
        self._skip_nonfinite = flag(skip_nonfinite, "skip_nonfinite")
        self._capturable = flag(capturable, "capturable")
        polyak_average = flag(polyak_average, "polyak_average")
        self._master_weights = True if master_weights is None else flag(master_weights, "master_weights")
        self.algorithm.hyperparameters(self.defaults, "the defaults", read_lr=not self._capturable)
        self._engine_name = engine
        self._averaging = Averaging.of(ema_decay, polyak_average)
        self._averages = {"ema_decay": ema_decay, "polyak_average": polyak_average}
        self.max_grad_norm = max_grad_norm
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

    @untraced
    def __repr__(self) -> str:
        groups = "".join(
            f"\n  group {index}: {len(group['params'])} parameters, "
            + ", ".join(f"{key}={group[key]!r}" for key in self.algorithm.keys)
            for index, group in enumerate(self.param_groups)
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
                elif placed.ref.library.holds_gradients:
                    placed.ref.array.grad = value
        else:
            self._bound.bind(saved["bound"])


keep_elsewhere(GpuOptimizer, Options.__annotations__, "chosen when the optimizer is made")
