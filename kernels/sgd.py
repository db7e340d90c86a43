"""Stochastic gradient descent with momentum: the rule, its coefficients, and `GpuSgd`. The rule's CUDA C++ text is ``sgd.cuh``.

::

    b = fma(d, g, mu*b)                     d = 1 at the first step, 1 - dampening from then on
    s = b, or with Nesterov's momentum s = fma(mu, b, g); without momentum s = g
    p = fma(a, s, p)                        a = -lr, mu = momentum

Polyak (1964); Nesterov (1983) in the form of Sutskever, Martens, Dahl and Hinton (2013), as PyTorch has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from gpu_adam.algorithm import Algorithm
from gpu_adam.hyperparameters import Flag, Number, Scheduled, is_on
from gpu_adam.optimizer import GpuOptimizer

from .row import LR, OWN_0, own, own_settings
from .rules import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from gpu_adam.optimizer import Options

A, MU, D, NESTEROV = own(4)
MOMENTUM = OWN_0
DAMPENING, IS_NESTEROV = own_settings(2)


def sgd(fma: Callable[..., Any], sqrt: Callable[..., Any], momentum: bool = False) -> Callable[..., Any]:
    """The scalar function: ``s0`` is, with ``momentum``, the sum of the gradients so far, older ones weighted less."""

    def update(p, g, s0, s1, s2, c):
        step = g
        if momentum:
            s0 = fma(c[D], g, c[MU] * s0)
            step = s0
            if c[NESTEROV]:
                step = fma(c[MU], s0, g)
        return fma(c[A], step, p), s0, s1, s2

    return update


def sgd_coefficients(
    mul: Callable[..., Any], sqrt: Callable[..., Any], narrow: Callable[..., Any], power: Callable[..., Any]
) -> Callable[..., Any]:
    """The coefficients of step t."""

    def coefficients(h, t, wide, row):
        row[A] = -h[LR]
        row[MU] = h[MOMENTUM]
        row[D] = 1.0 if t == 1 else 1.0 - h[DAMPENING]
        row[NESTEROV] = h[IS_NESTEROV]

    return coefficients


SGD = Rule("sgd", (), sgd, sgd_coefficients, "Sgd<false>", "sgd.cuh")
WITH_MOMENTUM = Rule(
    "sgd_momentum", ("momentum_buffer",), partial(sgd, momentum=True), sgd_coefficients, "Sgd<true>", "sgd.cuh"
)


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
