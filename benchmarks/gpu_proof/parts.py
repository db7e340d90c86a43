"""The parts, in the order of their importance, and what each may take of the time.

What settles the most comes first, so that a machine that is taken away early has still told it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: What ``--only`` goes by.
        what: What it does.
        share: Its share of the time. What the parts before it have left over comes on top.
        module: The module that does it.
    """

    name: str
    what: str
    share: float
    module: str


PARTS = (
    Part("bits", "every optimizer's steps against the cpu engine's, bit by bit", 0.14, f"{__package__}.bits"),
    Part("bench", "the times of a step, ours and others'", 0.30, f"{__package__}.bench"),
    Part("counts", "launches, synchronisations and allocations of a step", 0.05, f"{__package__}.counts"),
    Part("tests", "the tests that need a GPU", 0.20, f"{__package__}.suite"),
    Part("sanitizers", "compute-sanitizer's memcheck, racecheck and initcheck", 0.10, f"{__package__}.sanitizers"),
    Part("counters", "Nsight Compute's counters of the main kernels", 0.07, f"{__package__}.counters"),
    Part("training", "a training run", 0.04, f"{__package__}.training"),
    Part("sweep", "other launch geometries", 0.10, f"{__package__}.sweep"),
)

LEAST = 5.0
"""Seconds below which a part is not begun."""


def limits(chosen: Sequence[Part], seconds: float) -> Iterator[tuple[Part, float]]:
    """Each part with the share of the chosen ones' time at whose end it should be over, counted from the start.

    >>> [(part.name, round(end)) for part, end in limits(PARTS[:2], 42)]
    [('bits', 13), ('bench', 42)]
    """
    whole, end = sum(part.share for part in chosen), 0.0
    for part in chosen:
        end += part.share / whole * seconds
        yield part, end
