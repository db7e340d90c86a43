"""Words of error messages, which stay readable whatever was given."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from itertools import islice
from reprlib import Repr
from typing import Any

CLOSURE = (
    "a closure is not called: compute the gradients before the step, or use gpu_adam.torch, whose optimizers call it"
)
"""What is said to somebody who gives a step a closure, as ``torch.optim`` takes it."""


_MOST = 8
"""Values of a collection that are told."""


_MOST_LETTERS = 240
"""Letters of them, and of one value."""


_MOST_BITS = 256
"""Bits of an integer that is written out; Python refuses to write one of very many."""


class _Short(Repr):
    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= _MOST_BITS else f"an integer of {x.bit_length():,} bits"


_repr = _Short()


_repr.maxlevel = 3


_repr.maxlist = _repr.maxtuple = _repr.maxset = _repr.maxfrozenset = _repr.maxdict = _repr.maxarray = _repr.maxdeque = (
    _MOST
)


_repr.maxstring = _repr.maxother = 200


def shown(value: Any) -> str:
    """A value as Python writes it, cut where it is long.

    >>> shown((0.9, 0.999))
    '(0.9, 0.999)'
    >>> shown(list(range(1000)))
    '[0, 1, 2, 3, 4, 5, 6, 7, ...]'
    >>> shown(10**400)
    'an integer of 1,329 bits'
    """
    return cut(_repr.repr(value))


def cut(text: str) -> str:
    """A text, without its middle where it is long."""
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 23]}...{text[-20:]}"


def listed(values: Collection[Any]) -> str:
    """Values as a list, the first of many only.

    >>> listed(["weight", "bias"])
    "['weight', 'bias']"
    >>> listed(range(100_000))
    '[0, 1, 2, 3, 4, 5, 6, 7] and 99,992 more'
    """
    told: list[str] = []
    letters = 0
    for value in islice(values, _MOST):
        text = shown(value)
        letters += len(text)
        if told and letters > _MOST_LETTERS:
            break
        told.append(text)
    more = len(values) - len(told)
    return f"[{', '.join(told)}]" + (f" and {more:,} more" if more > 0 else "")


def a_kind(value: Any) -> str:
    """What a value is, by its type.

    >>> a_kind(3), a_kind({}.keys())
    ('an int', 'a dict_keys')
    """
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def or_else(name: str, known: Collection[str]) -> str:
    """For a name that is not known: the one that may have been meant, or else all that are.

    >>> or_else("amsgrd", ["lr", "amsgrad"])
    "did you mean 'amsgrad'?"
    >>> or_else("x", ["lr", "amsgrad"])
    'use lr, amsgrad'
    """
    near = get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"use {', '.join(known)}"
