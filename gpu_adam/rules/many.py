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


def write_coefficients(
    hyper: Hyperparameters,
    record: Sequence[float],
    steps: NDArray[np.int64],
    factor: float,
    rows: NDArray[np.floating[Any]],
) -> bool:
    """Write the rows of coefficients of several steps, rounded to the working format.

    Args:
        hyper: The hyperparameters.
        record: Their record.
        steps: The step numbers, at least two.
        factor: What the gradient is multiplied by.
        rows: Where to: a row for each step, in the working format.

    Returns:
        Whether that was done. They must be computed one by one where a hyperparameter is a function of the step, where the rule is not of
        this package, where its text takes another way for some steps than for others, and where a number is beyond the format.
    """
    if hyper.is_scheduled or not hyper.rule.is_shipped:
        return False
    words: list[Any] = [0.0] * ROW_WORDS
    with exact_casts():
        try:
            _filler(hyper.rule.coefficients)(record, steps, factor, bool(record[WIDE]), words)
        except ValueError:  # an array that is asked whether it is true
            return False
        for word, value in enumerate(words):
            rows[:, word] = value
    return not np.isinf(rows).any()


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
