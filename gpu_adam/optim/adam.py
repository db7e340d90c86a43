"""`GpuAdam`; its rule is in ``kernels/rules/adam.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..kernels.rules.adam import ADAM, AMSGRAD, BETA1, BETA2, BIAS_CORRECTION, EPS_HAT, EPSILON
from ..kernels.rules.rule import Rule
from ..rules.algorithm import Algorithm
from ..rules.hyperparameters import Flag, Number, Scheduled
from .base import GpuOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import Options


def adam_rule(group: Mapping[str, Any], where: str) -> Rule:
    """The rule that a group asks for."""
    return AMSGRAD if group["amsgrad"] else ADAM


def algorithm_of(choose: Callable[[Mapping[str, Any], str], Rule]) -> Algorithm:
    """Adam's rules and hyperparameters, with what is allowed of a group besides."""
    return Algorithm(
        (ADAM, AMSGRAD),
        (*Number.pair("betas", BETA1, BETA2, below=1.0), Number("eps", EPSILON, keeps_apart=True)),
        (Flag("amsgrad"), Flag("bias_correction", BIAS_CORRECTION), Flag("eps_hat", EPS_HAT)),
        choose,
    )


class GpuAdam(GpuOptimizer):
    r"""Adam (Kingma and Ba, 2014), with AMSGrad and AdamW as options, on GPUs and CPUs with the same bits.

    Step :math:`t` moves a parameter :math:`\theta` with gradient :math:`g` by

    .. math::
        m &= \beta_1 m + (1-\beta_1) g, \qquad v = \beta_2 v + (1-\beta_2) g^2 \\
        \theta &= \theta - \alpha \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}

    each operation rounded as `gpu_adam.kernels.adam` states. With ``eps=0`` an element whose gradients were all zero becomes 0/0, which is
    NaN.

    Args:
        params: The parameters: see `GpuOptimizer`, also for further arguments and errors.
        lr: The learning rate α, at least 0; or a function of the step number t = 1, 2, … (see `gpu_adam.schedules`); or a
            0-dimensional array.
        betas: β1 and β2, in [0, 1), or functions of t. Bias is corrected as if the value of step t had always held.
        eps: ε, at least 0.
        weight_decay: At least 0, or a function of t; L2 decay, which is added to the gradient, or with ``decoupled_weight_decay=True``
            that of AdamW, whose own defaults `GpuAdamW` has.
        amsgrad: Whether to divide by the largest second moment so far (Reddi, Kale and Kumar, 2018).
        bias_correction: Whether to divide by :math:`1-\beta^t`.
        eps_hat: Whether ``eps`` is the paper's ε̂ (end of its section 2): α√(1-β2^t)/(1-β1^t) · m/(√v + ε̂).

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

    algorithm = algorithm_of(adam_rule)

    def __init__(
        self,
        params: Any,
        lr: Scheduled = 1e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        *,
        amsgrad: bool = False,
        bias_correction: bool = True,
        eps_hat: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyperparameters = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "bias_correction": bias_correction,
            "eps_hat": eps_hat,
        }
        super().__init__(params, hyperparameters, **options)
