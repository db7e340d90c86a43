"""Stochastic gradient descent with momentum: the rule and its coefficients. The rule's CUDA C++ text is ``sgd.cuh``.

::

    b = fma(d, g, mu*b)                     d = 1 at the first step, 1 - dampening from then on
    s = b, or with Nesterov's momentum s = fma(mu, b, g); without momentum s = g
    p = fma(a, s, p)                        a = -lr, mu = momentum

Polyak (1964); Nesterov (1983) in the form of Sutskever, Martens, Dahl and Hinton (2013), as PyTorch has it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..abi import LR, OWN_0, own, own_settings
from .rule import Rule, ship

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


SGD = ship(Rule("sgd", (), sgd, sgd_coefficients, "Sgd<false>", "sgd.cuh"))


WITH_MOMENTUM = ship(
    Rule("sgd_momentum", ("momentum_buffer",), partial(sgd, momentum=True), sgd_coefficients, "Sgd<true>", "sgd.cuh")
)
