"""What an optimizer computes: its rules, the hyperparameters that they take, and the row of coefficients that these give at step t."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from math import sqrt
from operator import itemgetter, mul
from typing import Any

from .. import checks
from ..arrays.scalars import Scalar
from ..casting import to_single
from ..dtypes import FLOAT32, FLOAT64, Format
from ..errors import MisfitError
from ..kernels.abi import (
    AVERAGE_DECAY,
    AVERAGING,
    DECAY,
    IS_DECOUPLED,
    LR,
    MAXIMIZE,
    OWN_0,
    OWN_1,
    OWN_SETTINGS,
    RECORD_WORDS,
    ROW_WORDS,
    SCHEDULED_WORDS,
    WIDE,
)
from ..kernels.rules import rule as rules
from ..kernels.rules.rule import Rule
from ..lazy import cached_property
from ..messages import listed, shown
from .hyperparameters import Asked, Averaging, Flag, Number, Scheduled
from .keys import unknown_keys

_OWN_WORDS = {OWN_0, OWN_1, *range(OWN_SETTINGS, RECORD_WORDS)}
_COMMON = {"lr", "weight_decay", "decoupled_weight_decay", "maximize", "params", "name"}


class Algorithm:
    """An optimizer's rules with the hyperparameters that they take.

    Every algorithm takes those that come before a rule, in a group under ``"lr"``, ``"weight_decay"``, ``"decoupled_weight_decay"`` and
    ``"maximize"``; here the others are described.

    Args:
        rules: The rules, the usual one first; they must have the same coefficients.
        numbers: The hyperparameters that are numbers.
        flags: Those that are on or off.
        choose: From a group, and what errors call it, to one of the rules; by default the first. It may raise `ValueError` for what
            does not go together.
        scalars: For numbers that PyTorch saves of each parameter: from their names there to their places in a row.
        initial: For states that do not begin with zeros: from the state's name to the record's word that has its first value.
        uncounted: Whether PyTorch's optimizer of the same name saves no step count; a state without one then counts as one step.

    Raises:
        ValueError: If the rules do not share their coefficients, or there is none; for words that are not the rule's own or come twice, and
            keys that all algorithms have; for ``initial`` values that there cannot be.

    Attributes:
        rules: The rules, the usual one first.
        numbers: The hyperparameters that are numbers, with those that every algorithm takes.
        flags: The flags, with those that every algorithm takes.
        keys: The keys of a group's hyperparameters.
        states: The names of all states that one of the rules keeps.
        scalars: Where in a row the numbers are that PyTorch saves of each parameter.
        initial: Where in a record the first values of states are that do not begin with zeros.
        uncounted: Whether PyTorch's optimizer of the same name saves no step count.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        numbers: Sequence[Number] = (),
        flags: Sequence[Flag] = (),
        choose: Callable[[Mapping[str, Any], str], Rule] | None = None,
        scalars: Mapping[str, int] | None = None,
        initial: Mapping[str, int] | None = None,
        uncounted: bool = False,
    ) -> None:
        if len({rule.coefficients for rule in rules}) != 1:
            raise ValueError(
                "the rules of an algorithm must have the same coefficients, and there must be one at least"
            )
        words = [one.word for one in numbers] + [flag.word for flag in flags if flag.word is not None]
        if not set(words) <= _OWN_WORDS or len(set(words)) < len(words):
            raise ValueError(
                f"the words {words} of a record: must be different ones of OWN_0, OWN_1 and those of own_settings()"
            )
        begun = {one.word for one in numbers if one.word >= SCHEDULED_WORDS}
        for name, word in (initial or {}).items():
            if word not in begun or any(name not in rule.states for rule in rules):
                raise ValueError(
                    f"initial={initial}: must be states of every rule, and words of numbers that follow no schedule"
                )
        taken = _COMMON & {*(one.key for one in numbers), *(flag.key for flag in flags)}
        if taken:
            raise ValueError(f"the keys {sorted(taken)} are every optimizer's: use others")
        self.rules = tuple(rules)
        self.numbers = (Number("lr", LR), *numbers, Number("weight_decay", DECAY))
        self.flags = (*flags, Flag("decoupled_weight_decay", IS_DECOUPLED), Flag("maximize", MAXIMIZE))
        self.keys = tuple(dict.fromkeys([one.key for one in self.numbers] + [flag.key for flag in self.flags]))
        self.states = tuple(dict.fromkeys(name for rule in rules for name in rule.states))
        self.scalars = scalars or {}
        self.initial = initial or {}
        self.uncounted = uncounted
        self._choose = choose
        self._flags_of = itemgetter(*(flag.key for flag in self.flags))

    @property
    def is_shipped(self) -> bool:
        """Whether its rules come with this package, and so are there in CUDA C++ too."""
        return all(rule.is_shipped for rule in self.rules)

    def check_keys(self, group: Mapping[str, Any], where: str) -> None:
        """Raise an error for keys of a group that look like hyperparameters and are none.

        Raises:
            ValueError: For a key that is another optimizer's, or close to one of this one's; see `gpu_adam.rules.keys`.
        """
        unknown = unknown_keys(group, self.keys)
        if unknown:
            meant = get_close_matches(str(unknown[0]).lower(), ("params", *self.keys), 1)
            near = f". Did you mean {meant[0]!r}?" if meant else ""
            raise ValueError(
                f"{where} has unknown keys {listed(unknown)}: use {', '.join(('params', *self.keys))}; "
                f"a key of your own may begin with an underscore, and options of the whole optimizer stand outside the groups{near}"
            )

    def rule_of(self, group: Mapping[str, Any], where: str) -> Rule:
        """The rule that a group's hyperparameters ask for.

        Raises:
            ValueError: For what does not go together.
        """
        return self.rules[0] if self._choose is None else self._choose(group, where)

    def identify(self, group: Mapping[str, Any], where: str, *, read_lr: bool) -> tuple[Any, ...]:
        """What is compared from step to step: the values themselves, also of arrays and lists that are edited in place."""
        values = []
        try:
            for one in self.numbers:
                value = group[one.key]
                if one.entry is not None:
                    value = one.part(value, where)
                # In every step, so that a float is not looked at here, but where it has changed.
                values.append(value if type(value) is float else one.checked(value, where, read=read_lr))
            return (*values, *self._flags_of(group), *group)
        except KeyError as error:
            raise ValueError(f"{where} has lost its {shown(error.args[0])}") from None

    def hyperparameters(self, group: Mapping[str, Any], where: str, *, read_lr: bool = True) -> Hyperparameters:
        """The hyperparameters in a group's dictionary, checked.

        Args:
            group: The dictionary, with all of ``keys``.
            where: What to call the group in an error.
            read_lr: Whether a learning rate that lies on a GPU is read now, which waits for it, and not there in each step.

        Raises:
            TypeError: If a value is of a kind that makes no sense.
            ValueError: If a number is outside its range, or two values do not go together.
        """
        words: dict[int, Scheduled | Scalar] = {}
        for one in self.numbers:
            value = one.checked(one.part(group[one.key], where), where, read=read_lr)
            words[one.word] = one.in_record(value) if isinstance(value, float) else value
        for flag in self.flags:
            is_on = checks.flag(group[flag.key], flag.key, f" of {where}")
            if flag.word is not None:
                words[flag.word] = float(is_on)
        return Hyperparameters(self, self.rule_of(group, where), words)


@dataclass(frozen=True, eq=False)
class Hyperparameters:
    """One group's hyperparameters, checked.

    Attributes:
        algorithm: Whose they are.
        rule: The rule that they ask for.
        words: Their words of a record: numbers, functions of the step number, and for the learning rate a scalar on a device.
    """

    algorithm: Algorithm
    rule: Rule
    words: Mapping[int, Scheduled | Scalar]

    @cached_property
    def is_scheduled(self) -> bool:
        """Whether any of them is a function of the step number."""
        return any(callable(value) for value in self.words.values())

    @property
    def initial(self) -> dict[str, float]:
        """What the states that do not begin with zeros begin with."""
        values = {name: self.words[word] for name, word in self.algorithm.initial.items()}
        # Of a word that follows no schedule, so a number.
        return {name: value for name, value in values.items() if isinstance(value, float)}

    @property
    def lr_at(self) -> Scalar | None:
        """Where the learning rate lies on a device; ``None`` where it is a number or a function."""
        lr = self.words[LR]
        return lr if isinstance(lr, Scalar) else None

    def refuse_misfits(self, formats: Iterable[Format], where: str) -> None:
        """Raise `MisfitError` for a number that rounding to one of these working formats would make infinite, or 0 where it must not be."""
        for one in self.algorithm.numbers:
            value = self.words[one.word]
            if isinstance(value, float):
                for working in formats:
                    one.refuse_misfit(value, working, one.name, where)

    def scheduled(self, t: int, working: Format, where: str, asked: Asked) -> list[float]:
        """The numbers of step ``t`` that a record begins with.

        Args:
            t: The step number.
            working: The working format that they are rounded to.
            where: What to call the group in an error.
            asked: What functions have returned already in this step.

        Raises:
            TypeError, ValueError: If a function returns what is not allowed, or would be infinite in the working format.
        """
        values = [0.0] * SCHEDULED_WORDS
        for one in self.algorithm.numbers:
            if one.word < SCHEDULED_WORDS:
                value = self.words[one.word]
                if callable(value):
                    values[one.word] = one.in_record(one.at(value, t, where, asked))
                    one.refuse_misfit(values[one.word], working, f"{one.name}({t})", where)
                elif isinstance(value, float):
                    values[one.word] = value
        return values

    def record(self, averaging: Averaging, working: Format) -> list[float]:
        """The numbers and flags of a record, as `gpu_adam.kernels.row` lays them out; 0 for those that are found out later."""
        record = [0.0] * RECORD_WORDS
        for word, value in self.words.items():
            if isinstance(value, float):
                record[word] = value
        record[AVERAGING], record[AVERAGE_DECAY] = averaging.kind, averaging.decay
        record[WIDE] = float(working is FLOAT64)
        return record


def coefficients(
    hyper: Hyperparameters, record: list[float], t: int, factor: float, where: str, asked: Asked | None = None
) -> list[float]:
    """The row of coefficients of step ``t``, in float64, to be rounded once to the working format.

    Args:
        hyper: The hyperparameters.
        record: Their record.
        t: The step number, 1 at the first.
        factor: What the gradient is multiplied by.
        where: What to call the group in an error.
        asked: What functions have returned already in this step.

    Returns:
        ``ROW_WORDS`` numbers, in the order of `gpu_adam.kernels.row` and of the rule's own file.
    """
    working = FLOAT64 if record[WIDE] else FLOAT32
    if hyper.is_scheduled:
        record = [*hyper.scheduled(t, working, where, {} if asked is None else asked), *record[SCHEDULED_WORDS:]]
    row = [0.0] * ROW_WORDS
    _filler(hyper.rule.coefficients)(record, t, factor, working is FLOAT64, row)
    return row


def refuse_infinite(row: Sequence[float], hyper: Hyperparameters, working: Format, t: int, where: str) -> None:
    """Raise `MisfitError` for a row of step ``t`` with a number that would be infinite in the working format."""
    if max(row) > working.largest or min(row) < -working.largest:
        lr, decay = (value if isinstance(value, float) else "…" for value in (hyper.words[LR], hyper.words[DECAY]))
        raise MisfitError(
            f"lr={lr} and weight_decay={decay} of {where}: make a coefficient of step {t} infinite in {working}, "
            "in which these parameters are computed: use smaller ones",
            "lr",
            "smaller",
        )


@cache
def _filler(own: Callable[..., Any]) -> Callable[..., None]:
    """The kernels' own text, run by Python."""
    fill: Callable[..., None] = rules.coefficients(mul, _narrow, power, own(mul, sqrt, _narrow, power))
    return fill


def _narrow(x: float, wide: bool) -> float:
    return x if wide else to_single(x)


power = rules.power(mul)
"""``(base, exponent) -> base ** exponent`` by repeated squaring."""
