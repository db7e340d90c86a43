"""AdaDelta: the rule, its coefficients, and `GpuAdaDelta`. The rule's CUDA C++ text is ``adadelta.cuh``.

::

    v = fma(w*g, g, fma(-w, v, v))          w = 1 - rho; where v is infinite, v
    d = sqrt(u + eps)/sqrt(v + eps)*g       where u + eps is infinite, 0/sqrt(v + eps)*g
    u = fma(w*d, d, fma(-w, u, u))          where u is infinite, u
    p = fma(a, d, p)                        a = -lr

Zeiler (2012), Algorithm 1, where lr is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpu_adam.algorithm import Algorithm
from gpu_adam.hyperparameters import Number, Scheduled
from gpu_adam.optimizer import GpuOptimizer

from .row import LR, OWN_0, own, own_settings
from .rules import Rule, decayed

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from gpu_adam.optimizer import Options

W, EPS, A = own(3)
RHO = OWN_0
(EPSILON,) = own_settings(1)


def adadelta(fma: Callable[..., Any], sqrt: Callable[..., Any]) -> Callable[..., Any]:
    """The scalar function: ``s0`` is the mean square of the gradients, ``s1`` that of the updates."""
    less = decayed(fma)

    def update(p, g, s0, s1, s2, c):
        v = fma(c[W] * g, g, less(c[W], s0))
        x = s1 + c[EPS]
        size = sqrt(x)
        # Only infinity and 0 are their own doubles.
        if x + x == x:
            size = c[W] - c[W]
        delta = size / sqrt(v + c[EPS]) * g
        u = fma(c[W] * delta, delta, less(c[W], s1))
        return fma(c[A], delta, p), v, u, s2

    return update


def adadelta_coefficients(
    mul: Callable[..., Any], sqrt: Callable[..., Any], narrow: Callable[..., Any], power: Callable[..., Any]
) -> Callable[..., Any]:
    """The coefficients of step t."""

    def coefficients(h, t, wide, row):
        row[W] = 1.0 - h[RHO]
        row[EPS] = h[EPSILON]
        row[A] = -h[LR]

    return coefficients


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
        (Rule("adadelta", ("square_avg", "acc_delta"), adadelta, adadelta_coefficients, "AdaDelta", "adadelta.cuh"),),
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
