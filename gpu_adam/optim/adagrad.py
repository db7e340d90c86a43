"""`GpuAdaGrad`; its rule is in ``kernels/rules/adagrad.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kernels.rules.adagrad import ADAGRAD, EPSILON, INITIAL, LR_DECAY
from ..rules.algorithm import Algorithm
from ..rules.hyperparameters import Number, Scheduled
from .base import GpuOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import Options


class GpuAdaGrad(GpuOptimizer):
    r"""AdaGrad (Duchi, Hazan and Singer, 2011).

    .. math::
        s = s + g^2, \qquad \theta = \theta - \frac{\alpha}{1 + (t-1)\eta} \frac{g}{\sqrt{s} + \epsilon}

    each operation rounded as `gpu_adam.kernels.adagrad` states.

    Args:
        params: The parameters: see `GpuOptimizer`, also for further arguments and errors.
        lr: The learning rate α, at least 0; or a function of the step number t = 1, 2, …; or a 0-dimensional array.
        lr_decay: η, at least 0.
        weight_decay: At least 0, or a function of t.
        initial_accumulator_value: What s begins with, at least 0.
        eps: ε, at least 0. With 0 an element whose gradients were all zero becomes 0/0, which is NaN.

    Example:
        >>> import numpy as np
        >>> from gpu_adam import GpuAdaGrad
        >>> w = np.zeros(3, np.float32)
        >>> opt = GpuAdaGrad([w], lr=0.1)
        >>> opt.step([w - 1])
        >>> w
        array([0.1, 0.1, 0.1], dtype=float32)
    """

    algorithm = Algorithm(
        (ADAGRAD,),
        (
            Number("lr_decay", LR_DECAY),
            Number("initial_accumulator_value", INITIAL, keeps_apart=True),
            Number("eps", EPSILON, keeps_apart=True),
        ),
        initial={"sum": INITIAL},
    )

    def __init__(
        self,
        params: Any,
        lr: Scheduled = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: Scheduled = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        **options: Unpack[Options],
    ) -> None:
        hyperparameters = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
        }
        super().__init__(params, hyperparameters, **options)
