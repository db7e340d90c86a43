"""Adam and AMSGrad: the rule and its coefficients. The rule's CUDA C++ text is ``adam.cuh``, pinned to this one bit by bit.

::

    m = fma(w1, g, fma(-w1, m, m))          w1 = 1 - beta1
    v = fma(w2*g, g, fma(-w2, v, v))        w2 = 1 - beta2; where v is infinite, v
    x = v, or with amsgrad x = max(x, v), where NaN wins
    d = fma(sqrt(x), r2, eps)               r2 = 1/sqrt(1 - beta2^t)
    p = fma(a, m/d, p)                      a = -lr/(1 - beta1^t)

Kingma and Ba (2014), Algorithm 1; Reddi, Kale and Kumar (2018) for the maximum. Every multiplication that feeds an addition is an
explicit fma, so no compiler has a contraction left to choose; the moments decay by 1 - w, so a constant gradient is a fixed point.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..abi import LR, OWN_0, OWN_1, own, own_settings
from .rule import Rule, decayed, ship

W1, W2, R2, EPS, A = own(5)


BETA1, BETA2 = OWN_0, OWN_1


EPSILON, BIAS_CORRECTION, EPS_HAT = own_settings(3)


def adam(fma: Callable[..., Any], sqrt: Callable[..., Any], amsgrad: bool = False) -> Callable[..., Any]:
    """The scalar function of Adam: ``s0`` and ``s1`` are the moments, ``s2`` with ``amsgrad`` the largest second moment so far."""
    less = decayed(fma)

    def update(p, g, s0, s1, s2, c):
        m = fma(c[W1], g, fma(-c[W1], s0, s0))
        v = fma(c[W2] * g, g, less(c[W2], s1))
        x = v
        if amsgrad:
            # Written so that a NaN on either side is what remains.
            if s2 > v or s2 != s2:
                x = s2
            s2 = x
        d = fma(sqrt(x), c[R2], c[EPS])
        return fma(c[A], m / d, p), m, v, s2

    return update


def adam_coefficients(
    mul: Callable[..., Any], sqrt: Callable[..., Any], narrow: Callable[..., Any], power: Callable[..., Any]
) -> Callable[..., Any]:
    """Adam's own coefficients of step t, in float64: ``(h, t, wide, row)`` with the record ``h`` and the row to fill.

    Kingma and Ba (2014), section 2. ``w1`` and ``w2`` are rounded to the working format before anything follows from them, so that the
    bias that is corrected is the one that the moments have.
    """

    def coefficients(h, t, wide, row):
        w1 = narrow(1.0 - h[BETA1], wide)
        w2 = narrow(1.0 - h[BETA2], wide)
        c1 = 1.0
        c2 = 1.0
        if h[BIAS_CORRECTION] != 0.0:
            c1 = 1.0 - power(1.0 - w1, t)
            c2 = 1.0 - power(1.0 - w2, t)
        root = sqrt(c2)
        row[W1] = w1
        row[W2] = w2
        row[EPS] = h[EPSILON]
        if h[EPS_HAT] != 0.0:
            row[R2] = 1.0
            row[A] = mul(-h[LR], root) / c1
        else:
            row[R2] = 1.0 / root
            row[A] = -h[LR] / c1

    return coefficients


ADAM = ship(Rule("adam", ("exp_avg", "exp_avg_sq"), adam, adam_coefficients, "Adam<false>", "adam.cuh"))


AMSGRAD = ship(
    Rule(
        "adam_amsgrad",
        ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
        partial(adam, amsgrad=True),
        adam_coefficients,
        "Adam<true>",
        "adam.cuh",
    )
)
