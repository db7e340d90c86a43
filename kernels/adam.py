"""Adam and AMSGrad: the rule, as one scalar function. Its CUDA C++ text is `adam.cuh`, pinned to this one bit by bit by the tests.

    m = fma(w1, g, fma(-w1, m, m))          w1 = 1 - beta1
    v = fma(w2*g, g, fma(-w2, v, v))        w2 = 1 - beta2
    x = v, or with amsgrad x = max(x, v), where NaN wins
    d = fma(sqrt(x), r2, eps)               r2 = 1/sqrt(1 - beta2^t)
    p = fma(a, m/d, p)                      a = -lr/(1 - beta1^t)

Kingma and Ba (2014), Algorithm 1; Reddi, Kale and Kumar (2018) for the maximum. Every multiplication that feeds an addition is an
explicit fma, so no compiler has a contraction left to choose; the moments decay by 1 - w, so a constant gradient is a fixed point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# The rule's own coefficients, after the five that all rules share (`rules.FIRST_OWN`).
W1 = 5
W2 = 6
R2 = 7
EPS = 8
A = 9


def adam(fma: Callable[..., Any], sqrt: Callable[..., Any], amsgrad: bool = False) -> Callable[..., Any]:
    """The scalar function of Adam: ``s0`` and ``s1`` are the moments, ``s2`` with ``amsgrad`` the largest second moment so far."""

    def update(p, g, s0, s1, s2, c):
        m = fma(c[W1], g, fma(-c[W1], s0, s0))
        v = fma(c[W2] * g, g, fma(-c[W2], s1, s1))
        x = v
        if amsgrad:
            # Written so that a NaN on either side is what remains.
            if s2 > v or s2 != s2:
                x = s2
            s2 = x
        d = fma(sqrt(x), c[R2], c[EPS])
        return fma(c[A], m / d, p), m, v, s2

    return update
