"""Hyperparameters one by one: their keys in a group, their words in a record, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Any

from ..arrays.scalars import Scalar, scalar_on
from ..checks import from_zero, number
from ..dtypes import Format
from ..errors import MisfitError
from ..kernels.abi import EXPONENTIAL_AVERAGE, LR, MEAN_AVERAGE, SCHEDULED_WORDS
from ..messages import shown

Scheduled = float | Callable[[int], float]
"""A number, or a function from the step number t = 1, 2, … to it."""


Asked = dict[tuple[int, int], Any]
"""What functions have returned, by their identity and the step number: in a step each is called once for a step number, however
many groups, hyperparameters and formats it serves, since it may have side effects."""


@dataclass(frozen=True)
class Number:
    """A hyperparameter that is a number of at least 0, or one of a pair of them.

    Attributes:
        key: Its key in a group.
        word: Its word in a record. If that is among the first ``SCHEDULED_WORDS`` it may be a function of the step number.
        below: It must be smaller.
        entry: Which of the two numbers under the key it is; ``None`` where there is one.
        convert: From the number to what the record has; by default the number itself.
        keeps_apart: Whether it keeps a divisor from being 0, so that it may be 0 but not become 0 by rounding.
    """

    key: str
    word: int
    below: float = inf
    entry: int | None = None
    convert: Callable[[float], float] | None = None
    keeps_apart: bool = False

    @classmethod
    def pair(cls, key: str, first: int, second: int, below: float = inf) -> tuple[Number, Number]:
        """Two numbers that stand together under one key, with their words."""
        return cls(key, first, below, 0), cls(key, second, below, 1)

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.key if self.entry is None else f"{self.key}[{self.entry}]"

    def part(self, value: Any, where: str) -> Any:
        """Its part of what is under the key: all of it, or an entry of a pair in any ordered form, a tuple, a list, an array.

        Raises:
            ValueError: If that is no pair.
        """
        if self.entry is None:
            return value
        if type(value) is tuple and len(value) == 2:
            return value[self.entry]
        if not isinstance(value, (str, bytes, Mapping, Set)) and getattr(value, "shape", (2,)) == (2,):
            with suppress(TypeError, ValueError):
                first, second = value
                return second if self.entry else first
        raise ValueError(f"{self.key}={shown(value)} of {where}: must be two numbers {from_zero(self.below)}")

    def checked(self, value: Any, where: str, *, read: bool = True) -> Scheduled | Scalar:
        """A value, checked. A learning rate that lies on a GPU is left there unless it is to be read."""
        if callable(value) and self.word < SCHEDULED_WORDS:
            return value  # type: ignore[no-any-return]
        if self.word == LR and not read:
            scalar = scalar_on(value, f"{self.name} of {where}")
            if scalar is not None and scalar.device.kind == "cuda":
                return scalar
        return number(value, self.name, where, from_zero(self.below))

    def at(self, function: Callable[[int], float], t: int, where: str, asked: Asked) -> float:
        """What a function gives at step ``t``, checked."""
        key = id(function), t
        if key not in asked:
            asked[key] = function(t)
        return number(asked[key], f"{self.name}({t})", where, from_zero(self.below))

    def refuse_misfit(self, value: float, working: Format, name: str, where: str) -> None:
        """Raise `MisfitError` for a number of a record that would be infinite in a working format, or 0 where that makes a difference."""
        if value > working.largest:
            raise MisfitError(
                f"{name}={value!r} of {where}: is infinite in {working}, in which these parameters are computed: "
                f"must be at most {working.largest!r}",
                self.key,
                "smaller",
            )
        if self.keeps_apart and working.vanishes(value):
            raise MisfitError(
                f"{name}={value!r} of {where}: is 0 in {working}, in which these parameters are computed: "
                f"use 0, or at least {working.least!r}",
                self.key,
                "larger",
            )

    def in_record(self, value: float) -> float:
        """What the record has for a number."""
        return value if self.convert is None else float(self.convert(value))


@dataclass(frozen=True)
class Flag:
    """A hyperparameter that is on or off.

    Attributes:
        key: Its key in a group.
        word: Its word in a record; ``None`` where the rule depends on it.
    """

    key: str
    word: int | None = None


def is_on(value: Any) -> bool:
    """Whether a number is not always 0: then a rule may need a state for what it weighs."""
    return callable(value) or bool(value > 0)


@dataclass(frozen=True)
class Averaging:
    """Which average of the parameters is kept.

    Attributes:
        kind: As a record has it: 0 for none, ``EXPONENTIAL_AVERAGE`` or ``MEAN_AVERAGE``.
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
                f"ema_decay={shown(ema_decay)} and polyak_average=True: one average is kept, choose one of the two"
            )
        if ema_decay is not None:
            return cls(EXPONENTIAL_AVERAGE, number(ema_decay, "ema_decay", "the optimizer", from_zero(1.0)))
        return cls(MEAN_AVERAGE) if polyak_average else cls()
