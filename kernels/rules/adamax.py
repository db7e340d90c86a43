"""AdaMax: the rule and its coefficients. The rule's CUDA C++ text is ``adamax.cuh``.

::

    m = fma(w1, g, fma(-w1, m, m))          w1 = 1 - beta1
    u = max(b2*u, |g| + eps), where NaN wins            b2 = beta2; b2*u is u where u is infinite
    p = fma(a, m/u, p)                      a = -lr/(1 - beta1^t)

Kingma and Ba (2014), Algorithm 2, which has no eps; PyTorch adds it where it stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..abi import LR, OWN_0, OWN_1, own, own_settings
from .rule import Rule, ship

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
    """The coefficients of step t; w1 is rounded before its bias is corrected, as in `gpu_adam.kernels.rules.adam`."""

    def coefficients(h, t, wide, row):
        w1 = narrow(1.0 - h[BETA1], wide)
        row[W1] = w1
        row[B2] = h[BETA2]
        row[EPS] = h[EPSILON]
        row[A] = -h[LR] / (1.0 - power(1.0 - w1, t))

    return coefficients


ADAMAX = ship(Rule("adamax", ("exp_avg", "exp_inf"), adamax, adamax_coefficients, "AdaMax", "adamax.cuh"))
