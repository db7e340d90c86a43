"""`GpuAdaMax`; its rule is in ``kernels/rules/adamax.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kernels.rules.adamax import ADAMAX, BETA1, BETA2, EPSILON
from ..rules.algorithm import Algorithm
from ..rules.hyperparameters import Number, Scheduled
from .base import GpuOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import Options


class GpuAdaMax(GpuOptimizer):
    r"""AdaMax (Kingma and Ba, 2014, Algorithm 2): Adam with a norm of infinite order in place of the second moment.

    .. math::
        m &= \beta_1 m + (1-\beta_1) g, \qquad u = \max(\beta_2 u, |g| + \epsilon) \\
        \theta &= \theta - \frac{\alpha}{1-\beta_1^t} \frac{m}{u}

    each operation rounded as `gpu_adam.kernels.adamax` states.

    Args:
        params: The parameters: see `GpuOptimizer`, also for further arguments and errors.
        lr: The learning rate α, at least 0; or a function of the step number t = 1, 2, …; or a 0-dimensional array.
        betas: β1 and β2, in [0, 1), or functions of t.
        eps: ε, at least 0. With 0 it is the paper's algorithm, and an element whose gradients were all zero becomes 0/0, which is NaN.
        weight_decay: At least 0, or a function of t.

    Example:
        >>> import numpy as np
        >>> from gpu_adam import GpuAdaMax
        >>> w = np.zeros(3, np.float32)
        >>> opt = GpuAdaMax([w], lr=0.1)
        >>> opt.step([w - 1])
        >>> w
        array([0.1, 0.1, 0.1], dtype=float32)
    """

    algorithm = Algorithm(
        (ADAMAX,),
        (*Number.pair("betas", BETA1, BETA2, below=1.0), Number("eps", EPSILON, keeps_apart=True)),
    )

    def __init__(
        self,
        params: Any,
        lr: Scheduled = 2e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, **options)
