"""The arithmetic that each rule's docstring states, written out: what every engine must return, to the bit.

It imports nothing of `gpu_adam`. What all rules share is here as docs/arithmetic.md has it for Adam: see `reference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support import reference
from tests.support.reference import decayed_squares, fma, power

Array = NDArray[Any]
States = dict[str, Array]
Settings = dict[str, Any]

DEFAULTS: dict[str, Settings] = {
    "GpuAdam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "bias_correction": True, "eps_hat": False},
    "GpuAdaMax": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8},
    "GpuSgd": {"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "nesterov": False},
    "GpuAdaGrad": {"lr": 1e-2, "lr_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 1e-10},
    "GpuRmsProp": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False},
    "GpuAdaDelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6},
    "GpuNAdam": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "momentum_decay": 4e-3},
}  # fmt: skip
COMMON: Settings = {"weight_decay": 0.0, "decoupled_weight_decay": False, "maximize": False}


def at(settings: Settings, name: str, t: int) -> Settings:
    """All hyperparameters of step ``t``: functions of it called, what is not given by default."""

    def number(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(number(one) for one in value)
        return value(t) if callable(value) else value

    return {key: number(value) for key, value in {**DEFAULTS[name], **COMMON, **settings}.items()}


def decayed(weight: Any, x: Array) -> Array:
    """``x`` less ``weight`` of it."""
    return fma(-weight, x, x)


# Each takes the parameter, the gradient, the states by name, which it replaces, the hyperparameters and the step; and returns the
# parameter. ``fl`` rounds a coefficient that was computed in float64.


def adam(p: Array, g: Array, s: States, h: Settings, t: int, has: Callable[[str], bool]) -> Array:
    names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    c = reference.coefficients(reference.Options(**h), t, p.dtype.type)
    p, *states = reference.adam(p, g, c, *(s[name] for name in names), h["amsgrad"])
    s.update(zip(names, states, strict=True))
    return p


def adamax(p: Array, g: Array, s: States, h: Settings, t: int, has: Callable[[str], bool]) -> Array:
    fl = p.dtype.type
    w1 = fl(1.0 - h["betas"][0])
    s["exp_avg"] = fma(w1, g, decayed(w1, s["exp_avg"]))
    less = np.where(np.isposinf(s["exp_inf"]), s["exp_inf"], fl(h["betas"][1]) * s["exp_inf"])
    s["exp_inf"] = np.maximum(less, abs(g) + fl(h["eps"]))  # in which NaN wins
    return fma(fl(-h["lr"] / (1.0 - power(1.0 - float(w1), t))), s["exp_avg"] / s["exp_inf"], p)


def sgd(p: Array, g: Array, s: States, h: Settings, t: int, has: Callable[[str], bool]) -> Array:
    fl = p.dtype.type
    step = g
    if has("momentum"):
        mu, d = fl(h["momentum"]), fl(1.0 if t == 1 else 1.0 - h["dampening"])
        step = s["momentum_buffer"] = fma(d, g, mu * s["momentum_buffer"])
        if h["nesterov"]:
            step = fma(mu, step, g)
    return fma(fl(-h["lr"]), step, p)


def adagrad(p: Array, g: Array, s: States, h: Settings, t: int, has: Callable[[str], bool]) -> Array:
    fl = p.dtype.type
    start = fl(h["initial_accumulator_value"] if t == 1 else 0.0)
    s["sum"] = fma(g, g, s["sum"] + start)
    a = fl(-h["lr"] / (1.0 + (t - 1.0) * h["lr_decay"]))
    return fma(a, g / (np.sqrt(s["sum"]) + fl(h["eps"])), p)


def rmsprop(p: Array, g: Array, s: States, h: Settings, t: int, has: Callable[[str], bool]) -> Array:
    fl = p.dtype.type
    w = fl(1.0 - h["alpha"])
    x = s["square_avg"] = fma(w * g, g, decayed_squares(w, s["square_avg"]))
    if h["centered"]:
        m = s["grad_avg"] = fma(w, g, decayed(w, s["grad_avg"]))
        x = fma(-m, m, x)
        x = np.where(x < 0, fl(0.0), x)
    step = g / (np.sqrt(x) + fl(h["eps"]))
    if has("momentum"):
        step = s["momentum_buffer"] = fma(fl(h["momentum"]), s["momentum_buffer"], step)
    return fma(fl(-h["lr"]), step, p)


def adadelta(p: Array, g: Array, s: States, h: Settings, t: int, has: Callable[[str], bool]) -> Array:
    fl = p.dtype.type
    w, eps = fl(1.0 - h["rho"]), fl(h["eps"])
    v = s["square_avg"] = fma(w * g, g, decayed_squares(w, s["square_avg"]))
    grown = s["acc_delta"] + eps
    d = np.where(np.isposinf(grown), fl(0.0), np.sqrt(grown)) / np.sqrt(v + eps) * g
    s["acc_delta"] = fma(w * d, d, decayed_squares(w, s["acc_delta"]))
    return fma(fl(-h["lr"]), d, p)


def nadam(p: Array, g: Array, s: States, h: Settings, t: int, has: Callable[[str], bool]) -> Array:
    fl = p.dtype.type
    w1, w2 = (fl(1.0 - beta) for beta in h["betas"])
    m = s["exp_avg"] = fma(w1, g, decayed(w1, s["exp_avg"]))
    v = s["exp_avg_sq"] = fma(w2 * g, g, decayed_squares(w2, s["exp_avg_sq"]))
    d = fma(np.sqrt(v), fl(1.0 / math.sqrt(1.0 - power(1.0 - float(w2), t))), fl(h["eps"]))
    beta1, q = 1.0 - float(w1), 0.96 ** h["momentum_decay"]
    product, decay, n = 1.0, 1.0, 0
    while n < t and decay > 2.0**-53 and product > 0.0:
        decay = decay * q
        product = product * (beta1 * (1.0 - 0.5 * decay))
        n += 1
    product = product * power(beta1, t - n)  # half of what is left of the decay is nothing beside 1
    now, later = (beta1 * (1.0 - 0.5 * one) for one in (power(q, t), power(q, t) * q))
    ag, am = fl(-h["lr"] * (1.0 - now) / (1.0 - product)), fl(-h["lr"] * later / (1.0 - product * later))
    step = np.where(np.isposinf(d), m - m, fma(am, m, ag * g))
    return p + step / d


RULES = {
    "GpuAdam": (adam, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")),
    "GpuAdaMax": (adamax, ("exp_avg", "exp_inf")),
    "GpuSgd": (sgd, ("momentum_buffer",)),
    "GpuAdaGrad": (adagrad, ("sum",)),
    "GpuRmsProp": (rmsprop, ("square_avg", "grad_avg", "momentum_buffer")),
    "GpuAdaDelta": (adadelta, ("square_avg", "acc_delta")),
    "GpuNAdam": (nadam, ("exp_avg", "exp_avg_sq")),
}
"""Of each optimizer the function, and the states that it may have."""


class Reference(reference.Parameter):
    """A parameter of any rule, and its states, all of them zero at first."""

    def __init__(self, name: str, p: Array, keeps_master: bool = True, ema_decay: float | None = None) -> None:
        super().__init__(p, keeps_master, ema_decay)
        self.name = name
        self.states = {state: np.zeros(p.shape, self.working) for state in RULES[name][1]}

    def step(self, gradient: Array, settings: Settings, factor: float = 1.0) -> None:
        """One step; ``factor`` is the clip factor over the loss scale."""
        h = at(settings, self.name, self.t + 1)

        def move(p: Array, g: Array, c: reference.Coefficients) -> Array:
            return RULES[self.name][0](p, g, self.states, h, self.t, lambda key: bool(settings.get(key)))

        common = reference.Options(lr=h["lr"], **{key: h[key] for key in COMMON})
        self.advance(gradient, common, factor, move)
