"""`GpuAdaDelta`; its rule is in ``kernels/rules/adadelta.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kernels.rules.adadelta import ADADELTA, EPSILON, RHO
from ..rules.algorithm import Algorithm
from ..rules.hyperparameters import Number, Scheduled
from .base import GpuOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import Options


class GpuAdaDelta(GpuOptimizer):
    r"""AdaDelta (Zeiler, 2012).

    .. math::
        v &= \rho v + (1-\rho) g^2, \qquad \Delta = \frac{\sqrt{u + \epsilon}}{\sqrt{v + \epsilon}} g \\
        u &= \rho u + (1-\rho) \Delta^2, \qquad \theta = \theta - \alpha \Delta

    each operation rounded as `gpu_adam.kernels.adadelta` states.

    Args:
        params: The parameters: see `GpuOptimizer`, also for further arguments and errors.
        lr: The factor α, at least 0; or a function of the step number t = 1, 2, …; or a 0-dimensional array. The paper has none: 1.
        rho: ρ, in [0, 1), or a function of t.
        eps: ε, at least 0. With 0 an element never moves, and one whose gradients were all zero becomes 0/0, which is NaN.
        weight_decay: At least 0, or a function of t.

    Example:
        >>> import numpy as np
        >>> from gpu_adam import GpuAdaDelta
        >>> w = np.zeros(3, np.float32)
        >>> opt = GpuAdaDelta([w], eps=1e-4)
        >>> for _ in range(300):
        ...     opt.step([w - 1])  # the gradient of (w - 1)²/2
        >>> bool(abs(w - 1).max() < 0.01)
        True
    """

    algorithm = Algorithm(
        (ADADELTA,),
        (Number("rho", RHO, below=1.0), Number("eps", EPSILON, keeps_apart=True)),
    )

    def __init__(
        self,
        params: Any,
        lr: Scheduled = 1.0,
        rho: Scheduled = 0.9,
        eps: float = 1e-6,
        weight_decay: Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}, **options)
