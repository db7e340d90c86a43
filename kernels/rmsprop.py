"""RMSProp: the rule, its coefficients, and `GpuRmsProp`. The rule's CUDA C++ text is ``rmsprop.cuh``.

::

    v = fma(w*g, g, fma(-w, v, v))          w = 1 - alpha; where v is infinite, v
    x = v, or centered: m = fma(w, g, fma(-w, m, m)), x = fma(-m, m, v), but not below 0
    d = g/(sqrt(x) + eps)
    s = d, or with momentum b = fma(mu, b, d), s = b                mu = momentum
    p = fma(a, s, p)                        a = -lr

Tieleman and Hinton (2012, lecture 6.5); centered as in Graves (2013). Where the gradients hardly change, v and m*m agree but for their
roundings, and their difference may come out below 0; it then counts as 0, where PyTorch takes the root of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from gpu_adam.algorithm import Algorithm
from gpu_adam.hyperparameters import Flag, Number, Scheduled, is_on
from gpu_adam.optimizer import GpuOptimizer

from .row import LR, OWN_0, OWN_1, own, own_settings
from .rules import Rule, decayed

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from gpu_adam.optimizer import Options

W, EPS, MU, A = own(4)
ALPHA, MOMENTUM = OWN_0, OWN_1
(EPSILON,) = own_settings(1)


def rmsprop(
    fma: Callable[..., Any], sqrt: Callable[..., Any], centered: bool = False, momentum: bool = False
) -> Callable[..., Any]:
    """The scalar function: ``s0`` is the mean square; after it come, where they are kept, the mean and the momentum."""
    less = decayed(fma)

    def update(p, g, s0, s1, s2, c):
        x = s0 = fma(c[W] * g, g, less(c[W], s0))
        if centered:
            s1 = fma(c[W], g, fma(-c[W], s1, s1))
            x = fma(-s1, s1, s0)
            # Not x less itself, which is NaN where x is infinite: coefficients are finite.
            zero = c[W] - c[W]
            if x < zero:
                x = zero
        step = g / (sqrt(x) + c[EPS])
        if momentum and centered:
            step = s2 = fma(c[MU], s2, step)
        elif momentum:
            step = s1 = fma(c[MU], s1, step)
        return fma(c[A], step, p), s0, s1, s2

    return update


def rmsprop_coefficients(
    mul: Callable[..., Any], sqrt: Callable[..., Any], narrow: Callable[..., Any], power: Callable[..., Any]
) -> Callable[..., Any]:
    """The coefficients of step t."""

    def coefficients(h, t, wide, row):
        row[W] = 1.0 - h[ALPHA]
        row[EPS] = h[EPSILON]
        row[MU] = h[MOMENTUM]
        row[A] = -h[LR]

    return coefficients


def _rule(centered: bool, momentum: bool) -> Rule:
    kept = {"square_avg": True, "grad_avg": centered, "momentum_buffer": momentum}
    return Rule(
        "rmsprop" + "_centered" * centered + "_momentum" * momentum,
        tuple(name for name, is_kept in kept.items() if is_kept),
        partial(rmsprop, centered=centered, momentum=momentum),
        rmsprop_coefficients,
        f"RmsProp<{str(centered).lower()}, {str(momentum).lower()}>",
        "rmsprop.cuh",
    )


RULES = {(centered, momentum): _rule(centered, momentum) for centered in (False, True) for momentum in (False, True)}


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
