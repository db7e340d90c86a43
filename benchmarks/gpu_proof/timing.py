"""Contenders by turns, on a clock; medians and quartiles of each way of telling the time."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from time import perf_counter
from typing import Any

import numpy as np

from ..timing import quartiles
from .clocks import HostClock, Step

MOST_STEADY = 24
"""Steps in a row, at most: fewer than the host may be ahead of the device in ours, so that it never waits."""

STEADY_SECONDS = 5e-3
"""What a sample of steps in a row should take."""

MIN_ROUNDS = 5
AHEAD = 1.6
"""How many times its usual the host may take to queue a step."""


@dataclass
class Timed:
    """What is timed.

    Attributes:
        step: A step.
        wait: What waits for it; by default the clock's.
        on_stream: Whether it works on the default stream, where events tell its time.
    """

    step: Step
    wait: Step | None = None
    on_stream: bool = True
    samples: dict[str, list[float]] = field(
        default_factory=lambda: {"device": [], "host": [], "wall": [], "steady": []}
    )


def by_turns(all_timed: Mapping[str, Timed], clock: HostClock, *, rounds: int, seconds: float) -> None:
    """Time all in rounds, A B C, A B C, …; the samples are in each.

    Args:
        all_timed: What to time, by label; each has run before.
        clock: The clock.
        rounds: Rounds, where the time allows.
        seconds: What the rounds may take, as long as that leaves ``MIN_ROUNDS`` of them.
    """
    usual = {label: min(clock.call(one.step, one.wait) for _ in range(3)) for label, one in all_timed.items()}
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        start = perf_counter()
        for done in range(rounds):
            spent = perf_counter() - start
            if done >= min(MIN_ROUNDS, rounds) and spent + spent / done > seconds:
                break
            for label, one in all_timed.items():
                host, wall = usual[label]
                _sample(one, clock, AHEAD * host + 50e-6, max(1, min(MOST_STEADY, ceil(STEADY_SECONDS / wall))))
    finally:
        if was_collecting:
            gc.enable()


def _sample(one: Timed, clock: HostClock, ahead: float, count: int) -> None:
    device = clock.device(one.step, ahead) if one.on_stream else None
    host, wall = clock.call(one.step, one.wait)
    steady = clock.steady(one.step, count, one.wait)
    for name, value in (("device", device), ("host", host), ("wall", wall), ("steady", steady)):
        if value is not None:
            one.samples[name].append(value)


def row(label: str, one: Timed, limit: Timed | None, bytes_moved: int) -> dict[str, Any]:
    """A contender's figures, in seconds: medians and quartiles, and what its device time is of the limit's."""
    found: dict[str, Any] = {"label": label, "rounds": len(one.samples["wall"])}
    for name, values in one.samples.items():
        found[name] = float(np.median(values)) if values else None
        found[f"{name}_quartiles"] = list(quartiles(np.array(values))) if values else None
    if found["device"]:
        found["bytes_per_second"] = bytes_moved / found["device"]
        if limit is not None and limit.samples["device"]:
            found["to_limit"] = found["device"] / float(np.median(limit.samples["device"]))
    return found
