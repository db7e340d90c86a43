"""Hyperparameters of a group: their names, what is allowed, and the row of coefficients that they give at step t."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from numbers import Real
from operator import mul
from typing import Any

import numpy as np

from .formats import FLOAT64, Format
from .kernels import rules
from .kernels.adam import BIAS_CORRECTION, EPS_HAT, EPSILON
from .kernels.row import (
    AVERAGE_DECAY,
    AVERAGING,
    IS_DECOUPLED,
    MAXIMIZE,
    RECORD_WORDS,
    ROW_WORDS,
    SCHEDULED_WORDS,
    WIDE,
)
from .scaling import Scalar, scalar_on

Scheduled = float | Callable[[int], float]
"""A number, or a function from the step number t = 1, 2, … to it."""

FLAGS = ("decoupled_weight_decay", "amsgrad", "maximize", "bias_correction", "eps_hat")
"""The hyperparameters that are either on or off."""

KEYS = ("lr", "betas", "eps", "weight_decay", *FLAGS)
"""The hyperparameters of a group, as keys of its dictionary."""


@dataclass(frozen=True)
class Hyperparameters:
    """One group's hyperparameters, checked.

    Attributes:
        lr: The learning rate, at least 0. It and the next three may be functions of the step number; it may lie on the device.
        beta1, beta2: The decay rates of the moments, in [0, 1).
        weight_decay: At least 0.
        eps: What is added to the root of the second moment, at least 0.
        decoupled_weight_decay: Whether decay shrinks the parameter (AdamW) and not the gradient (L2).
        amsgrad: Whether the largest second moment so far divides.
        maximize: Whether the gradient is followed upwards.
        bias_correction: Whether the moments' start at zero is corrected for.
        eps_hat: Whether ``eps`` is the paper's ε̂, which is added to the uncorrected root (end of section 2).
    """

    lr: Scheduled | Scalar
    beta1: Scheduled
    beta2: Scheduled
    weight_decay: Scheduled
    eps: float
    decoupled_weight_decay: bool
    amsgrad: bool
    maximize: bool
    bias_correction: bool
    eps_hat: bool

    @classmethod
    def of_group(cls, group: Mapping[str, Any], where: str, *, read_lr: bool = True) -> Hyperparameters:
        """The hyperparameters in a group's dictionary.

        Args:
            group: The dictionary, with all of ``KEYS``.
            where: What to call the group in an error.
            read_lr: Whether a learning rate that lies on a GPU is read now, which waits for it, and not there in each step.

        Raises:
            TypeError: If a value is of a kind that makes no sense.
            ValueError: If a number is outside its range.
        """
        decay = _scheduled(group["weight_decay"], "weight_decay", where)
        lr = learning_rate(group["lr"], where, read=read_lr)
        pair = two_betas(group["betas"], where)
        beta1, beta2 = (_scheduled(beta, f"betas[{k}]", where, below=1.0) for k, beta in enumerate(pair))
        for flag in FLAGS:
            if not isinstance(group[flag], (bool, np.bool_)):
                raise TypeError(f"{flag}={group[flag]!r} of {where}: must be True or False")
        eps = number(group["eps"], "eps", where)
        return cls(lr, beta1, beta2, decay, eps, *(bool(group[flag]) for flag in FLAGS))

    @property
    def rule(self) -> str:
        """The update rule's name."""
        return "adam_amsgrad" if self.amsgrad else "adam"

    @property
    def is_scheduled(self) -> bool:
        """Whether any of them is a function of the step number."""
        return callable(self.lr) or callable(self.beta1) or callable(self.beta2) or callable(self.weight_decay)

    def scheduled(self, t: int, where: str) -> tuple[float, float, float, float]:
        """``lr``, ``beta1``, ``beta2`` and ``weight_decay`` of step ``t``, which is where a record begins.

        Raises:
            TypeError, ValueError: If a function returns what is not allowed.
        """
        lr, beta1, beta2, decay = self.lr, self.beta1, self.beta2, self.weight_decay
        return (
            number(lr(t), f"lr({t})", where) if callable(lr) else 0.0 if isinstance(lr, Scalar) else lr,
            number(beta1(t), f"betas[0]({t})", where, below=1.0) if callable(beta1) else beta1,
            number(beta2(t), f"betas[1]({t})", where, below=1.0) if callable(beta2) else beta2,
            number(decay(t), f"weight_decay({t})", where) if callable(decay) else decay,
        )

    def record(self, averaging: Averaging, working: Format) -> list[float]:
        """The numbers and flags of a record, as `gpu_adam.kernels.row` lays them out; 0 for those that are found out later."""
        record = [0.0] * RECORD_WORDS
        for word, value in enumerate((self.lr, self.beta1, self.beta2, self.weight_decay)):
            record[word] = value if isinstance(value, float) else 0.0
        record[IS_DECOUPLED] = float(self.decoupled_weight_decay)
        record[MAXIMIZE] = float(self.maximize)
        record[AVERAGING], record[AVERAGE_DECAY] = averaging.kind, averaging.decay
        record[WIDE] = float(working is FLOAT64)
        record[EPSILON] = self.eps
        record[BIAS_CORRECTION] = float(self.bias_correction)
        record[EPS_HAT] = float(self.eps_hat)
        return record


@dataclass(frozen=True)
class Averaging:
    """Which average of the parameters is kept.

    Attributes:
        kind: As a record has it: 0 for none, 1 for an exponential one, 2 for the plain mean.
        decay: The exponential one's decay.
    """

    kind: float = 0.0
    decay: float = 0.0

    def __bool__(self) -> bool:
        return self.kind != 0.0

    @classmethod
    def of(cls, ema_decay: float | None, polyak_average: bool) -> Averaging:
        """From the optimizer's arguments.

        Raises:
            TypeError: If ``ema_decay`` is not a number.
            ValueError: If it is outside [0, 1), or both are asked for.
        """
        if ema_decay is not None and polyak_average:
            raise ValueError(
                f"ema_decay={ema_decay!r} and polyak_average=True: one average is kept, choose one of the two"
            )
        if ema_decay is not None:
            return cls(1.0, number(ema_decay, "ema_decay", "the optimizer", below=1.0))
        return cls(2.0) if polyak_average else cls()


def coefficients(hyper: Hyperparameters, record: list[float], t: int, factor: float, where: str) -> list[float]:
    """The row of coefficients of step ``t``, in float64, to be rounded once to the working format.

    ``w1 = fl(1-β1)``, ``c1 = 1-(1-w1)^t``, ``r2 = fl(1/√c2)``, ``a = fl(-lr/c1)``, ``k = fl(-lr·weight_decay)``; with
    ``eps_hat`` ``r2 = 1``, ``a = fl(-lr·√c2/c1)``. Kingma and Ba (2014), section 2.

    Args:
        hyper: The hyperparameters.
        record: Their record.
        t: The step number, 1 at the first.
        factor: What the gradient is multiplied by.
        where: What to call the group in an error.

    Returns:
        ``ROW_WORDS`` numbers, in the order of `gpu_adam.kernels.row` and `gpu_adam.kernels.adam`.
    """
    if hyper.is_scheduled:
        record = [*hyper.scheduled(t, where), *record[SCHEDULED_WORDS:]]
    row = [0.0] * ROW_WORDS
    _FILL[hyper.rule](record, t, factor, record[WIDE] != 0.0, row)
    return row


def _narrow(x: float, wide: bool) -> float:
    return x if wide else float(np.float32(x))


power = rules.power(mul)
"""``(base, exponent) -> base ** exponent`` by repeated squaring."""

_FILL = {
    name: rules.coefficients(mul, _narrow, power, rule.coefficients(mul, sqrt, _narrow, power))
    for name, rule in rules.RULES.items()
}
"""The kernels' own text, run by Python."""


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


def learning_rate(value: Any, where: str, *, read: bool) -> Scheduled | Scalar:
    """A learning rate, checked; one that lies on a GPU is left there unless it is to be read."""
    if not read:
        scalar = scalar_on(value, f"lr of {where}")
        if scalar is not None and scalar.device.kind == "cuda":
            return scalar
    return _scheduled(value, "lr", where)


def _scheduled(value: Any, name: str, where: str, *, below: float = inf) -> Scheduled:
    return value if callable(value) else number(value, name, where, below=below)


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
