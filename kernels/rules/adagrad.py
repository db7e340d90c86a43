"""AdaGrad: the rule and its coefficients. The rule's CUDA C++ text is ``adagrad.cuh``.

::

    s = fma(g, g, s)                        which begins with initial_accumulator_value
    p = fma(a, g/(sqrt(s) + eps), p)        a = -lr/(1 + (t-1)*lr_decay)

Duchi, Hazan and Singer (2011).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..abi import LR, own, own_settings
from .rule import Rule, ship

A, EPS = own(2)


EPSILON, LR_DECAY, INITIAL = own_settings(3)


def adagrad(fma: Callable[..., Any], sqrt: Callable[..., Any]) -> Callable[..., Any]:
    """The scalar function: ``s0`` is the sum of squares."""

    def update(p, g, s0, s1, s2, c):
        total = fma(g, g, s0)
        return fma(c[A], g / (sqrt(total) + c[EPS]), p), total, s1, s2

    return update


def adagrad_coefficients(
    mul: Callable[..., Any], sqrt: Callable[..., Any], narrow: Callable[..., Any], power: Callable[..., Any]
) -> Callable[..., Any]:
    """The coefficients of step t."""

    def coefficients(h, t, wide, row):
        row[A] = -h[LR] / (1.0 + mul(t - 1.0, h[LR_DECAY]))
        row[EPS] = h[EPSILON]

    return coefficients


ADAGRAD = ship(Rule("adagrad", ("sum",), adagrad, adagrad_coefficients, "AdaGrad", "adagrad.cuh"))
