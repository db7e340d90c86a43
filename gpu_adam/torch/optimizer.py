"""What the classes of `gpu_adam.torch` are: a `torch.optim.Optimizer` whose steps one of the package's optimizers makes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..messages import a_kind
from ..optim.base import GpuOptimizer
from ..optim.interface import unexpected
from ..plan.launches import Plan
from ..step.graph import StepGraph
from ..step.scaling import max_norm
from .groups import refuse_twice, values_of
from .state_dicts import StateDictLayer


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


class TorchOptimizer(StateDictLayer):
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
            tensors; from then on each has a gradient, which `zero_grad` fills with zeros: one that takes no part in a loss decays and
            counts its steps. Not for complex tensors, DTensors and FSDP's.
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
        self._engine = None
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

    # What the package's optimizers have beside PyTorch's; see `gpu_adam.GpuOptimizer`.

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
        return self._ready().core.plan

    def averaged(self) -> AbstractContextManager[None]:
        """A block in which the parameters are their averages, ``state[p]["average"]``; after it they are what they were, to the bit.

        Raises:
            RuntimeError: If no average is kept: make the optimizer with ``ema_decay`` or ``polyak_average``.
        """
        return self._current().core.averaged()

    def graph(self) -> StepGraph:
        """A step with the gradients that there are as a CUDA graph, to be replayed; see `gpu_adam.GpuOptimizer.graph`.

        Raises:
            RuntimeError: Without ``capturable=True``, and on a CPU, which has no graphs.
        """
        return self._current().core.graph()

    def prepare_replay(self) -> None:
        """Send what was changed in `param_groups`, before a graph is replayed that captured `step`; see `gpu_adam.GpuOptimizer`."""
        self._made()
        self._ready().core.prepare_replay()

    def _made(self) -> GpuOptimizer:
        if self._engine is None:
            raise RuntimeError("no step was made since the optimizer was made: there is no norm yet, nor a graph")
        return self._engine.core


def _refuse_flags(foreach: bool | None, fused: bool | None, differentiable: bool) -> None:
    """Raise what PyTorch raises for flags that do not go together; here autograd never sees a step."""
    if differentiable:
        raise RuntimeError(
            "differentiable=True: autograd does not see the kernels that make the step, so it must be False"
        )
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
