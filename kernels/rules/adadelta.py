"""AdaDelta: the rule and its coefficients. The rule's CUDA C++ text is ``adadelta.cuh``.

::

    v = fma(w*g, g, fma(-w, v, v))          w = 1 - rho; where v is infinite, v
    d = sqrt(u + eps)/sqrt(v + eps)*g       where u + eps is infinite, 0/sqrt(v + eps)*g
    u = fma(w*d, d, fma(-w, u, u))          where u is infinite, u
    p = fma(a, d, p)                        a = -lr

Zeiler (2012), Algorithm 1, where lr is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..abi import LR, OWN_0, own, own_settings
from .rule import Rule, decayed, ship

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


ADADELTA = ship(
    Rule("adadelta", ("square_avg", "acc_delta"), adadelta, adadelta_coefficients, "AdaDelta", "adadelta.cuh")
)
