"""Hyperparameters of a group: their names, what is allowed, and the row of coefficients that they give at step t."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from numbers import Real
from typing import Any

import numpy as np

from .formats import Format
from .plan import ROW_WORDS

LearningRate = float | Callable[[int], float]

FLAGS = ("decoupled_weight_decay", "amsgrad", "maximize", "bias_correction", "eps_hat")
"""The hyperparameters that are either on or off."""

KEYS = ("lr", "betas", "eps", "weight_decay", *FLAGS)
"""The hyperparameters of a group, as keys of its dictionary."""


@dataclass(frozen=True)
class Hyperparameters:
    """One group's hyperparameters, checked.

    Attributes:
        lr: The learning rate, at least 0, or a function from the step number t = 1, 2, … to it.
        beta1, beta2: The decay rates of the moments, in [0, 1).
        eps: What is added to the root of the second moment, at least 0.
        weight_decay: At least 0.
        decoupled_weight_decay: Whether decay shrinks the parameter (AdamW) and not the gradient (L2).
        amsgrad: Whether the largest second moment so far divides.
        maximize: Whether the gradient is followed upwards.
        bias_correction: Whether the moments' start at zero is corrected for.
        eps_hat: Whether ``eps`` is the paper's ε̂, which is added to the uncorrected root (end of section 2).
    """

    lr: LearningRate
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    decoupled_weight_decay: bool
    amsgrad: bool
    maximize: bool
    bias_correction: bool
    eps_hat: bool

    @classmethod
    def of_group(cls, group: Mapping[str, Any], where: str) -> Hyperparameters:
        """The hyperparameters in a group's dictionary.

        Args:
            group: The dictionary, with all of ``KEYS``.
            where: What to call the group in an error.

        Raises:
            TypeError: If a value is of a kind that makes no sense.
            ValueError: If a number is outside its range.
        """
        lr = group["lr"]
        if not callable(lr):
            lr = number(lr, "lr", where)
        pair = two_betas(group["betas"], where)
        beta1, beta2 = (number(beta, f"betas[{k}]", where, below=1.0) for k, beta in enumerate(pair))
        for flag in FLAGS:
            if not isinstance(group[flag], (bool, np.bool_)):
                raise TypeError(f"{flag}={group[flag]!r} of {where}: must be True or False")
        eps = number(group["eps"], "eps", where)
        decay = number(group["weight_decay"], "weight_decay", where)
        return cls(lr, beta1, beta2, eps, decay, *(bool(group[flag]) for flag in FLAGS))

    @property
    def rule(self) -> str:
        """The update rule's name."""
        return "adam_amsgrad" if self.amsgrad else "adam"

    def lr_at(self, t: int, where: str) -> float:
        """The learning rate of step ``t``."""
        return number(self.lr(t), f"lr({t})", where) if callable(self.lr) else self.lr

    def row(self, t: int, lr: float, working: Format) -> tuple[float, ...]:
        """The coefficients of step ``t``, each computed in float64 and rounded once to the working format.

        The names are the design's: ``w1 = fl(1-β1)``, ``c1 = 1-(1-w1)^t``, ``r2 = fl(1/√c2)``, ``a = fl(-lr/c1)``,
        ``k = fl(-lr·weight_decay)``; with ``eps_hat`` ``r2 = 1``, ``a = fl(-lr·√c2/c1)``. Kingma and Ba (2014), section 2.

        Args:
            t: The step number, 1 at the first.
            lr: The learning rate.
            working: The working format.

        Returns:
            ``ROW_WORDS`` numbers, in the order of `gpu_adam.kernels.rules` and `gpu_adam.kernels.adam`.
        """
        fl = working.dtype.type
        w1, w2 = float(fl(1.0 - self.beta1)), float(fl(1.0 - self.beta2))
        c1 = c2 = 1.0
        if self.bias_correction:
            c1, c2 = 1.0 - power(1.0 - w1, t), 1.0 - power(1.0 - w2, t)
        r2, a = (1.0, -lr * sqrt(c2) / c1) if self.eps_hat else (1.0 / sqrt(c2), -lr / c1)
        decays = self.weight_decay != 0.0
        return (
            -1.0 if self.maximize else 1.0,
            1.0 if decays and not self.decoupled_weight_decay else 0.0,
            1.0 if decays and self.decoupled_weight_decay else 0.0,
            self.weight_decay,
            -lr * self.weight_decay,
            w1,
            w2,
            r2,
            self.eps,
            a,
            *_PADDING,
        )


_PADDING = (0.0,) * (ROW_WORDS - 10)


def power(base: float, exponent: int) -> float:
    """``base ** exponent`` by repeated squaring from the lowest bit up, so that every machine rounds alike.

    >>> power(0.5, 3)
    0.125
    """
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def two_betas(betas: Any, where: str) -> tuple[Any, Any]:
    """The two entries of a pair in any ordered form: a tuple, a list, an array.

    Raises:
        ValueError: If it is none of these or has another length.
    """
    if not isinstance(betas, (str, bytes, Mapping, Set)) and getattr(betas, "shape", (2,)) == (2,):
        with suppress(TypeError, ValueError):
            first, second = betas
            return first, second
    raise ValueError(f"betas={betas!r} of {where}: must be two numbers in [0, 1)")


def number(value: Any, name: str, where: str, *, below: float = inf) -> float:
    """``value`` as a float in ``[0, below)``.

    A 0-dimensional array of any library, or one of a single element with no dimensions left, counts as a number.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is out of range or not finite, or an array with dimensions.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        shape = getattr(value, "shape", None)
        if shape is None or isinstance(value, np.bool_):
            raise TypeError(f"{name}={value!r} of {where}: must be a number")
        if tuple(shape):
            raise ValueError(f"{name} of {where} has shape {tuple(shape)}: must be a number or a 0-dimensional array")
        dtype = str(getattr(value, "dtype", ""))
        if "bool" in dtype or "complex" in dtype:
            raise TypeError(f"{name}={value!r} of {where}: must be a real number")
    try:
        result = float(value)
    except OverflowError:
        result = inf
    except (TypeError, ValueError):
        raise TypeError(f"{name}={value!r} of {where}: must be a real number") from None
    if not (0.0 <= result < below and isfinite(result)):
        bound = f"[0, {below:g})" if below < inf else "[0, ∞) and finite"
        raise ValueError(f"{name}={result!r} of {where}: must be in {bound}")
    return result
