"""Numbers, ranges and flags: what is taken, and in which words the rest is refused."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from gpu_adam.checks import (
    FINITE,
    MOST_STEPS,
    POSITIVE,
    Range,
    flag,
    from_zero,
    number,
    real,
    refuse_dimensions,
    step_count,
    whole,
)


@pytest.mark.parametrize(
    ("within", "words", "held", "refused"),
    [
        (from_zero(), "in [0, ∞) and finite", (0.0, -0.0, 1e308), (-5e-324, inf, nan)),
        (from_zero(1.0), "in [0, 1)", (0.0, 0.5), (1.0, -1.0, nan)),
        (Range(0.0, 1.0, has_low=False), "in (0, 1)", (0.5,), (0.0, 1.0)),
        (Range(0.0, 1.0, has_low=False, has_high=True), "in (0, 1]", (0.5, 1.0), (0.0, 1.5)),
        (Range(0.0, has_high=True), "in [0, ∞]", (0.0, inf), (-1.0, nan)),
        (FINITE, "finite", (-1e308, 0.0), (inf, -inf, nan)),
        (POSITIVE, "positive and finite", (5e-324,), (0.0, inf)),
    ],
)
def test_ranges(within: Range, words: str, held: tuple[float, ...], refused: tuple[float, ...]) -> None:
    assert str(within) == words
    for value in held:
        assert within.check(value, "x") == value
    for value in refused:
        with pytest.raises(ValueError, match=f"^{re.escape(f'x={value!r} of y: must be {words}')}$"):
            within.check(value, "x", " of y")


def test_what_became_infinite_is_shown_as_it_was_given() -> None:
    with pytest.raises(ValueError, match=r"^x=an integer of 1,329 bits of y: must be in \[0, ∞\) and finite$"):
        number(10**400, "x", "y", from_zero())
    with pytest.raises(ValueError, match=r"^x=an integer of 1,329 bits: must be finite$"):
        real(10**400, "x", FINITE)


@pytest.mark.parametrize("value", [1, 1.0, Fraction(1), np.float32(1), np.array(1), np.int8(1)])
def test_numbers(value: Any) -> None:
    for found in (number(value, "x", "y", from_zero()), real(value, "x")):
        assert (type(found), found) == (float, 1.0)


def test_what_is_kept_is_a_number_and_what_is_read_once_may_become_one() -> None:
    assert real(Decimal(1), "x") == 1.0
    with pytest.raises(TypeError, match=r"^x=Decimal\('1'\) of y: must be a number$"):
        number(Decimal(1), "x", "y", from_zero())


@pytest.mark.parametrize("value", [None, "1", True, 1j, [1.0]])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(TypeError) as raised:
        number(value, "x", "y", from_zero())
    assert str(raised.value) == f"x={value!r} of y: must be a number"
    with pytest.raises(TypeError) as raised:
        real(value, "x", allowed="a number, or None")
    assert str(raised.value) == f"x={value!r}: must be a number, or None"


def test_dimensions() -> None:
    refuse_dimensions((), "x")
    refuse_dimensions((1,), "x", but_one=True)
    for shape, but_one in (((1,), False), ((2,), True), ((1, 1), True), ((0,), True)):
        words = f"x has shape {shape}: must be a number or a 0-dimensional array"
        with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
            refuse_dimensions(shape, "x", but_one=but_one)


def test_whole_numbers() -> None:
    assert whole(np.int16(3), "n", 1, 3) == 3
    for value, error, words in (
        (1.0, TypeError, "a whole number"),
        (True, TypeError, "a whole number"),
        (0, ValueError, "at least 1"),
        (4, ValueError, "at most 3"),
    ):
        with pytest.raises(error) as raised:
            whole(value, "n", 1, 3, " of y")
        assert str(raised.value) == f"n={value!r} of y: must be {words}"


@pytest.mark.parametrize("value", [3, 3.0, np.array([3.0]), np.int64(3), Decimal(3)])
def test_counts_of_steps(value: Any) -> None:
    assert step_count(value, "w") == 3


@pytest.mark.parametrize("value", [-1, 0.5, nan, inf, "3", None, MOST_STEPS + 1, np.ones(2), np.array(True)])
def test_what_is_no_count_of_steps(value: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"state_dict's step of w is .*: must be a whole number from 0 to {MOST_STEPS}"
    ):
        step_count(value, "w")


def test_flags() -> None:
    assert [flag(value, "f") for value in (True, np.True_, False, np.False_)] == [True, True, False, False]
    for value in (1, None, "yes", np.array(True)):
        with pytest.raises(TypeError) as raised:
            flag(value, "f", " of y")
        assert str(raised.value) == f"f={value!r} of y: must be True or False"
