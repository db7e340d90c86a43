"""`GpuRmsProp`; its rule is in ``kernels/rules/rmsprop.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..kernels.rules.rmsprop import ALPHA, EPSILON, MOMENTUM, RULES
from ..kernels.rules.rule import Rule
from ..rules.algorithm import Algorithm
from ..rules.hyperparameters import Flag, Number, Scheduled, is_on
from .base import GpuOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import Options


def _choose(group: Mapping[str, Any], where: str) -> Rule:
    return RULES[bool(group["centered"]), is_on(group["momentum"])]


class GpuRmsProp(GpuOptimizer):
    r"""RMSProp (Tieleman and Hinton, 2012), centered as in Graves (2013), with momentum as an option.

    .. math::
        v = \alpha v + (1-\alpha) g^2, \qquad \theta = \theta - \gamma \frac{g}{\sqrt{v} + \epsilon}

    Centered, the square of the gradients' mean is taken off v; with momentum μ, b = μb + g/(√v + ε) takes the place of the quotient. Each
    operation is rounded as `gpu_adam.kernels.rmsprop` states.

    Args:
        params: The parameters: see `GpuOptimizer`, also for further arguments and errors.
        lr: The learning rate γ, at least 0; or a function of the step number t = 1, 2, …; or a 0-dimensional array.
        alpha: α, in [0, 1), or a function of t.
        eps: ε, at least 0. With 0 an element whose gradients were all zero becomes 0/0, which is NaN.
        weight_decay: At least 0, or a function of t.
        momentum: μ, at least 0, or a function of t.
        centered: Whether v is that of the gradients less their mean.

    Example:
        >>> import numpy as np
        >>> from gpu_adam import GpuRmsProp
        >>> w = np.zeros(3, np.float32)
        >>> opt = GpuRmsProp([w], lr=0.01, alpha=0.75)
        >>> opt.step([w - 1])
        >>> w
        array([0.02, 0.02, 0.02], dtype=float32)
    """

    algorithm = Algorithm(
        tuple(RULES.values()),
        (Number("alpha", ALPHA, below=1.0), Number("eps", EPSILON, keeps_apart=True), Number("momentum", MOMENTUM)),
        (Flag("centered"),),
        _choose,
    )

    def __init__(
        self,
        params: Any,
        lr: Scheduled = 1e-2,
        alpha: Scheduled = 0.99,
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        momentum: Scheduled = 0.0,
        centered: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyperparameters = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
        }
        super().__init__(params, hyperparameters, **options)
