"""AdaGrad: the rule, its coefficients, and `GpuAdaGrad`. The rule's CUDA C++ text is ``adagrad.cuh``.

::

    s = fma(g, g, s)                        which begins with initial_accumulator_value
    p = fma(a, g/(sqrt(s) + eps), p)        a = -lr/(1 + (t-1)*lr_decay)

Duchi, Hazan and Singer (2011).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpu_adam.algorithm import Algorithm
from gpu_adam.hyperparameters import Number, Scheduled
from gpu_adam.optimizer import GpuOptimizer

from .row import LR, own, own_settings
from .rules import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from gpu_adam.optimizer import Options

A, EPS = own(2)
EPSILON, LR_DECAY, INITIAL = own_settings(3)


def adagrad(fma: Callable[..., Any], sqrt: Callable[..., Any]) -> Callable[..., Any]:
    """The scalar function: ``s0`` is the sum of squares."""

    def update(p, g, s0, s1, s2, c):
        total = fma(g, g, s0)
        return fma(c[A], g / (sqrt(total) + c[EPS]), p), total, s1, s2

    return update


def adagrad_coefficients(
    mul: Callable[..., Any], sqrt: Callable[..., Any], narrow: Callable[..., Any], power: Callable[..., Any]
) -> Callable[..., Any]:
    """The coefficients of step t."""

    def coefficients(h, t, wide, row):
        row[A] = -h[LR] / (1.0 + mul(t - 1.0, h[LR_DECAY]))
        row[EPS] = h[EPSILON]

    return coefficients


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
        (Rule("adagrad", ("sum",), adagrad, adagrad_coefficients, "AdaGrad", "adagrad.cuh"),),
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
