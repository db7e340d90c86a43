"""The coefficients of many steps at once: the kernels' own text, run by NumPy on an array of step numbers.

The operations are the same and each is rounded by itself, so the bits are those of `gpu_adam.rules.algorithm.coefficients`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..casting import exact_casts, to_single
from ..kernels.abi import ROW_WORDS, WIDE
from ..kernels.rules import rule as rules
from .algorithm import Hyperparameters


def coefficients_of(
    hyper: Hyperparameters, record: Sequence[float], steps: NDArray[np.int64], factor: float
) -> NDArray[np.float64] | None:
    """The rows of coefficients of several steps, in float64.

    Args:
        hyper: The hyperparameters.
        record: Their record.
        steps: The step numbers, at least two.
        factor: What the gradient is multiplied by.

    Returns:
        A row for each step; ``None`` where they must be computed one by one: where a hyperparameter is a function of the step, where
        the rule is not of this package, or where its text takes another way for some steps than for others.
    """
    if hyper.is_scheduled or not hyper.rule.is_shipped:
        return None
    words: list[Any] = [0.0] * ROW_WORDS
    with exact_casts():
        try:
            _filler(hyper.rule.coefficients)(record, steps, factor, bool(record[WIDE]), words)
        except ValueError:  # an array that is asked whether it is true
            return None
        rows = np.empty((len(steps), ROW_WORDS))
        for word, value in enumerate(words):
            rows[:, word] = value
    return rows


@cache
def _filler(own: Callable[..., Any]) -> Callable[..., None]:
    fill: Callable[..., None] = rules.coefficients(
        np.multiply, _narrow, _power, own(np.multiply, np.sqrt, _narrow, _power)
    )
    return fill


def _narrow(x: float, wide: bool) -> float:
    return x if wide else to_single(float(x))


def _power(base: float, exponents: Any) -> Any:
    """As `gpu_adam.kernels.rules.rule.power`, for one base; a factor of 1 changes nothing."""
    places = np.arange(int(exponents.max()).bit_length())
    squares = [base]
    while len(squares) < len(places):
        squares.append(squares[-1] * squares[-1])
    factors = np.where(exponents >> places[:, None] & 1, np.array(squares)[: len(places), None], 1.0)
    result = np.ones(len(exponents))
    for factor in factors:
        result *= factor
    return result
