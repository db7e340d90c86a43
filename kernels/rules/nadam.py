"""NAdam: the rule and its coefficients. The rule's CUDA C++ text is ``nadam.cuh``.

::

    m = fma(w1, g, fma(-w1, m, m))          w1 = 1 - beta1
    v = fma(w2*g, g, fma(-w2, v, v))        w2 = 1 - beta2; where v is infinite, v
    d = fma(sqrt(v), r2, eps)               r2 = 1/sqrt(1 - beta2^t)
    p = p + fma(am, m, ag*g)/d; where d is infinite, p + (m - m)/d
                                            ag = -lr*(1 - mu_t)/(1 - mu_1*...*mu_t)
                                            am = -lr*mu_{t+1}/(1 - mu_1*...*mu_{t+1})
    mu_t = beta1*(1 - q^t/2)                q = 0.96^momentum_decay

Dozat (2016), as PyTorch has it. A gradient whose square is beyond the format may take ag*g there too, and infinity over infinity is NaN:
hence m - m, which is 0 unless a gradient was infinite or NaN. q is the C library's power on the host, and sent to the device as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..abi import LR, OWN_0, OWN_1, own, own_settings
from .rule import Rule, decayed, ship

W1, W2, R2, EPS, AM, AG, PRODUCT = own(7)


BETA1, BETA2 = OWN_0, OWN_1


EPSILON, Q = own_settings(2)


NEGLIGIBLE = 2.0**-60
"""What is smaller leaves no trace when it is taken off 1."""


FADED = 2.0**-53
"""Nor does half of what is smaller than this: from there on every momentum is beta1."""


def nadam(fma: Callable[..., Any], sqrt: Callable[..., Any]) -> Callable[..., Any]:
    """The scalar function: ``s0`` and ``s1`` are the moments."""
    less = decayed(fma)

    def update(p, g, s0, s1, s2, c):
        m = fma(c[W1], g, fma(-c[W1], s0, s0))
        v = fma(c[W2] * g, g, less(c[W2], s1))
        d = fma(sqrt(v), c[R2], c[EPS])
        step = fma(c[AM], m, c[AG] * g)
        # NaN where d is infinite; or NaN, which the quotient is then in any case.
        rests = d - d
        if rests != rests:
            step = m - m
        return p + step / d, m, v, s2

    return update


def nadam_coefficients(
    mul: Callable[..., Any], sqrt: Callable[..., Any], narrow: Callable[..., Any], power: Callable[..., Any]
) -> Callable[..., Any]:
    """The coefficients of step t; the weights are rounded first, as in `gpu_adam.kernels.rules.adam`.

    The momenta are multiplied one by one until their product is negligible or they no longer change; the rest is a power of beta1.
    That takes some 60 of them with the usual decay and 2,700 at most, whatever t and beta1 are.
    """

    def coefficients(h, t, wide, row):
        w1 = narrow(1.0 - h[BETA1], wide)
        w2 = narrow(1.0 - h[BETA2], wide)
        beta1 = 1.0 - w1
        product = 1.0
        decay = 1.0
        n = 0
        while n < t and product > NEGLIGIBLE and decay > FADED:
            decay = mul(decay, h[Q])
            product = mul(product, mul(beta1, 1.0 - mul(0.5, decay)))
            n += 1
        product = mul(product, power(beta1, t - n))
        decay = power(h[Q], t)
        now = mul(beta1, 1.0 - mul(0.5, decay))
        later = mul(beta1, 1.0 - mul(0.5, mul(decay, h[Q])))
        row[W1] = w1
        row[W2] = w2
        row[R2] = 1.0 / sqrt(1.0 - power(1.0 - w2, t))
        row[EPS] = h[EPSILON]
        row[AG] = mul(-h[LR], 1.0 - now) / (1.0 - product)
        row[AM] = mul(-h[LR], later) / (1.0 - mul(product, later))
        row[PRODUCT] = product

    return coefficients


NADAM = ship(Rule("nadam", ("exp_avg", "exp_avg_sq"), nadam, nadam_coefficients, "NAdam", "nadam.cuh"))
