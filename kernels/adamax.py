"""AdaMax: the rule, its coefficients, and `GpuAdaMax`. The rule's CUDA C++ text is ``adamax.cuh``.

::

    m = fma(w1, g, fma(-w1, m, m))          w1 = 1 - beta1
    u = max(b2*u, |g| + eps), where NaN wins            b2 = beta2; b2*u is u where u is infinite
    p = fma(a, m/u, p)                      a = -lr/(1 - beta1^t)

Kingma and Ba (2014), Algorithm 2, which has no eps; PyTorch adds it where it stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpu_adam.algorithm import Algorithm
from gpu_adam.hyperparameters import Number, Scheduled
from gpu_adam.optimizer import GpuOptimizer

from .row import LR, OWN_0, OWN_1, own, own_settings
from .rules import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from gpu_adam.optimizer import Options

W1, B2, EPS, A = own(4)
BETA1, BETA2 = OWN_0, OWN_1
(EPSILON,) = own_settings(1)


def adamax(fma: Callable[..., Any], sqrt: Callable[..., Any]) -> Callable[..., Any]:
    """The scalar function: ``s0`` is the first moment, ``s1`` the norm of infinite order."""

    def update(p, g, s0, s1, s2, c):
        m = fma(c[W1], g, fma(-c[W1], s0, s0))
        u = c[B2] * s1
        # 0 times infinity; or a NaN, which stays one.
        if u != u:
            u = s1
        size = abs(g) + c[EPS]
        if size > u or size != size:
            u = size
        return fma(c[A], m / u, p), m, u, s2

    return update


def adamax_coefficients(
    mul: Callable[..., Any], sqrt: Callable[..., Any], narrow: Callable[..., Any], power: Callable[..., Any]
) -> Callable[..., Any]:
    """The coefficients of step t; w1 is rounded before its bias is corrected, as in `gpu_adam.kernels.adam`."""

    def coefficients(h, t, wide, row):
        w1 = narrow(1.0 - h[BETA1], wide)
        row[W1] = w1
        row[B2] = h[BETA2]
        row[EPS] = h[EPSILON]
        row[A] = -h[LR] / (1.0 - power(1.0 - w1, t))

    return coefficients


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
        (Rule("adamax", ("exp_avg", "exp_inf"), adamax, adamax_coefficients, "AdaMax", "adamax.cuh"),),
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
