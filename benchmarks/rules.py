"""The optimizers that are measured, as data: ours, PyTorch's, their hyperparameters, and what they compute, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_adam import GpuAdaDelta, GpuAdaGrad, GpuAdam, GpuAdaMax, GpuNAdam, GpuRmsProp, GpuSgd

from .libraries import Array

LR, BETAS = 1e-3, (0.9, 0.999)

Formula = Callable[..., Iterator[Array]]
"""From the parameter, its gradient, the same in each step, and the hyperparameters: the parameter after steps 1, 2, …, without end."""


@dataclass(frozen=True)
class Rule:
    """One optimizer.

    Attributes:
        ours: The class of this package.
        torch: PyTorch's name of its own.
        fused: Whether PyTorch has it fused, in one kernel for all of a step.
        states: Arrays that it keeps for each parameter.
        hyperparameters: What it is given, ours and PyTorch's: with gradients of about 0.01 a step is about ``LR``, as the check expects.
        formula: What it computes, by the formulas of its paper.
    """

    ours: Any
    torch: str
    fused: bool
    states: int
    hyperparameters: Mapping[str, Any]
    formula: Formula


def _adam(theta: Array, g: Array, lr: float, betas: tuple[float, float], eps: float) -> Iterator[Array]:
    (beta1, beta2), t = betas, 0
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    while True:
        t += 1
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        theta = theta - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        yield theta


def _adamax(theta: Array, g: Array, lr: float, betas: tuple[float, float], eps: float) -> Iterator[Array]:
    """The paper has no ε; PyTorch's is here."""
    (beta1, beta2), t = betas, 0
    m, u = np.zeros_like(theta), np.zeros_like(theta)
    while True:
        t += 1
        m = beta1 * m + (1 - beta1) * g
        u = np.maximum(beta2 * u, np.abs(g) + eps)
        theta = theta - lr / (1 - beta1**t) * m / u
        yield theta


def _nadam(
    theta: Array, g: Array, lr: float, betas: tuple[float, float], eps: float, momentum_decay: float
) -> Iterator[Array]:
    (beta1, beta2), t = betas, 0
    m, v = np.zeros_like(theta), np.zeros_like(theta)

    def mu(t: int) -> float:
        return float(beta1 * (1 - 0.96 ** (t * momentum_decay) / 2))

    product = 1.0
    while True:
        t += 1
        product *= mu(t)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        ahead = mu(t + 1) / (1 - product * mu(t + 1)) * m + (1 - mu(t)) / (1 - product) * g
        theta = theta - lr * ahead / (np.sqrt(v / (1 - beta2**t)) + eps)
        yield theta


def _sgd(theta: Array, g: Array, lr: float, momentum: float) -> Iterator[Array]:
    b = np.zeros_like(theta)
    while True:
        b = momentum * b + g
        theta = theta - lr * b
        yield theta


def _adagrad(theta: Array, g: Array, lr: float, eps: float) -> Iterator[Array]:
    total = np.zeros_like(theta)
    while True:
        total = total + g**2
        theta = theta - lr * g / (np.sqrt(total) + eps)
        yield theta


def _rmsprop(theta: Array, g: Array, lr: float, alpha: float, eps: float) -> Iterator[Array]:
    v = np.zeros_like(theta)
    while True:
        v = alpha * v + (1 - alpha) * g**2
        theta = theta - lr * g / (np.sqrt(v) + eps)
        yield theta


def _adadelta(theta: Array, g: Array, lr: float, rho: float, eps: float) -> Iterator[Array]:
    v, u = np.zeros_like(theta), np.zeros_like(theta)
    while True:
        v = rho * v + (1 - rho) * g**2
        delta = np.sqrt(u + eps) / np.sqrt(v + eps) * g
        u = rho * u + (1 - rho) * delta**2
        theta = theta - lr * delta
        yield theta


_OF_ADAM = {"lr": LR, "betas": BETAS, "eps": 1e-8}

RULES = {
    "adam": Rule(GpuAdam, "Adam", True, 2, _OF_ADAM, _adam),
    "sgd": Rule(GpuSgd, "SGD", True, 1, {"lr": 100 * LR, "momentum": 0.9}, _sgd),
    "adagrad": Rule(GpuAdaGrad, "Adagrad", True, 1, {"lr": LR, "eps": 1e-10}, _adagrad),
    "rmsprop": Rule(GpuRmsProp, "RMSprop", False, 1, {"lr": 0.1 * LR, "alpha": 0.99, "eps": 1e-8}, _rmsprop),
    "adamax": Rule(GpuAdaMax, "Adamax", False, 2, _OF_ADAM, _adamax),
    "adadelta": Rule(GpuAdaDelta, "Adadelta", False, 2, {"lr": 1.0, "rho": 0.9, "eps": 1e-6}, _adadelta),
    "nadam": Rule(GpuNAdam, "NAdam", False, 2, {**_OF_ADAM, "momentum_decay": 4e-3}, _nadam),
}
"""By what a case calls them."""
