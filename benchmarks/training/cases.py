"""The lists of tensors of training loops, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..cases import Case, added, equal, gpt2


def loop(case: Case) -> Case:
    """The same in a training loop."""
    return replace(case, name=f"loop-{case.name}", gradients="new")


def some_absent(case: Case, absent: int) -> Case:
    """The same with some gradients absent in each step, others each time."""
    return replace(case, name=f"{case.name}-{absent}-absent", variant="absent", absent=absent)


def _equal(count: int, size: int) -> Case:
    return loop(equal(f"{count}x{size}", count, size))


def _clipped(case: Case) -> Case:
    return replace(added("clip", case), name=f"{case.name}-clip")


THOUSAND, TEN_THOUSAND = _equal(1_000, 1_000), _equal(10_000, 100)
GPT2 = loop(Case("gpt2-w384", "list", tuple(gpt2(384))))
"""GPT-2 of half the width, so that the memory holds all contenders at once."""


def _cases() -> Iterator[Case]:
    yield from (_equal(1, 1_000_000), _equal(10, 100_000), _equal(100, 10_000), THOUSAND, TEN_THOUSAND, GPT2)
    yield from (_clipped(THOUSAND), _clipped(GPT2))
    yield from (some_absent(THOUSAND, 1), some_absent(THOUSAND, 10))


CASES = tuple(_cases())
"""From one tensor to 10,000, a million elements each; a model; clipping; 0.1 % and 1 % of the gradients absent."""

_HUNDRED = _equal(100, 10)

QUICK = (_equal(1, 1_000), _HUNDRED, _clipped(_equal(10, 2_000)), some_absent(_HUNDRED, 1))
"""For ``--quick``: everything runs, and nothing takes long or means much."""
