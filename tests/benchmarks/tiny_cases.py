"""Cases of a few elements, and their contenders."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import contenders
from benchmarks.cases import Case
from benchmarks.place import CPU
from benchmarks.rules import RULES
from benchmarks.start import Contender, Start

TINY = Case("tiny", "list", ((3, 5), (), (0,), (17,)))
TINY_BFLOAT16 = Case("tiny-bfloat16", "list", ((3, 5), (17,)), "bfloat16")
# Of a norm that is clipped, which takes as many elements as the gradients are small.
LONG = ((300, 50), (), (0,), (5000,))
TINY_VARIANTS = [
    Case("tiny-clip", "list", LONG, variant="clip"),
    Case("tiny-average", "list", TINY.shapes, variant="average"),
    Case("tiny-scale", "list", TINY.shapes, variant="scale"),
    Case("tiny-rows", "single", ((40, 6),), variant="rows", rows=11),
]
TINY_OTHERS = [Case(f"tiny-{name}", "list", TINY.shapes, optimizer=name) for name in RULES if name != "adam"]


def made(start: Start) -> Iterator[Contender]:
    for entry in contenders.entries(start.case, CPU):
        yield from entry.make(start)
