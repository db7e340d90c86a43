"""`GpuSgd`; its rule is in ``kernels/rules/sgd.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..kernels.rules.rule import Rule
from ..kernels.rules.sgd import DAMPENING, IS_NESTEROV, MOMENTUM, SGD, WITH_MOMENTUM
from ..rules.algorithm import Algorithm
from ..rules.hyperparameters import Flag, Number, Scheduled, is_on
from .base import GpuOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import Options


def _choose(group: Mapping[str, Any], where: str) -> Rule:
    momentum, dampening = group["momentum"], group["dampening"]
    has_momentum = is_on(momentum)
    if group["nesterov"] and not (has_momentum and dampening == 0):
        raise ValueError(
            f"nesterov=True with momentum={momentum!r} and dampening={dampening!r} of {where}: "
            "needs a momentum above 0, and no dampening"
        )
    return WITH_MOMENTUM if has_momentum else SGD


class GpuSgd(GpuOptimizer):
    r"""Stochastic gradient descent, with momentum (Polyak, 1964) or Nesterov's momentum (1983; Sutskever et al., 2013).

    .. math::
        b = \mu b + (1-d) g, \qquad \theta = \theta - \alpha\, b \quad\text{or, Nesterov's,}\quad \theta = \theta - \alpha (g + \mu b)

    as PyTorch has it: the first step's gradient is not dampened. Each operation is rounded as `gpu_adam.kernels.sgd` states.

    Args:
        params: The parameters: see `GpuOptimizer`, also for further arguments and errors.
        lr: The learning rate α, at least 0; or a function of the step number t = 1, 2, …; or a 0-dimensional array.
        momentum: μ, at least 0, or a function of t. With 0 there is no state.
        dampening: d, at least 0.
        weight_decay: At least 0, or a function of t.
        nesterov: Whether the momentum is Nesterov's, which needs one above 0 and no dampening.

    Example:
        >>> import numpy as np
        >>> from gpu_adam import GpuSgd
        >>> w = np.zeros(3, np.float32)
        >>> opt = GpuSgd([w], lr=0.1, momentum=0.9, nesterov=True)
        >>> for _ in range(100):
        ...     opt.step([w - 1])  # the gradient of (w - 1)²/2
        >>> bool(abs(w - 1).max() < 0.01)
        True
    """

    algorithm = Algorithm(
        (SGD, WITH_MOMENTUM),
        (Number("momentum", MOMENTUM), Number("dampening", DAMPENING)),
        (Flag("nesterov", IS_NESTEROV),),
        _choose,
        uncounted=True,
    )

    def __init__(
        self,
        params: Any,
        lr: Scheduled = 1e-3,
        momentum: Scheduled = 0.0,
        dampening: float = 0.0,
        weight_decay: Scheduled = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyperparameters = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, hyperparameters, **options)
