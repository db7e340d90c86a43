"""RMSProp: the rule and its coefficients. The rule's CUDA C++ text is ``rmsprop.cuh``.

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

from collections.abc import Callable
from functools import partial
from typing import Any

from ..abi import LR, OWN_0, OWN_1, own, own_settings
from .rule import Rule, decayed, ship

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
    return ship(
        Rule(
            "rmsprop" + "_centered" * centered + "_momentum" * momentum,
            tuple(name for name, is_kept in kept.items() if is_kept),
            partial(rmsprop, centered=centered, momentum=momentum),
            rmsprop_coefficients,
            f"RmsProp<{str(centered).lower()}, {str(momentum).lower()}>",
            "rmsprop.cuh",
        )
    )


RULES = {(centered, momentum): _rule(centered, momentum) for centered in (False, True) for momentum in (False, True)}
