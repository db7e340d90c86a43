"""Timing in turns: every contender once, and again, so that a noisy machine is noisy for all of them alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clocks import Clock, Timed

MIN_ROUNDS = 5
"""Rounds however long they take; fewer have no quartiles to speak of."""


def by_turns(
    all_timed: Mapping[str, Timed],
    clock: Clock,
    *,
    rounds: int,
    seconds: float,
    progress: Callable[[], Any] = lambda: None,
) -> None:
    """Time all in rounds, A B C, A B C, …; the samples are in each.

    Args:
        all_timed: What to time, by label; each has run before.
        clock: The clock.
        rounds: Rounds, where the time allows.
        seconds: What the rounds may take, as long as that leaves ``MIN_ROUNDS`` (or ``rounds`` if fewer).
        progress: Called after each sample.
    """
    for one in all_timed.values():
        clock.prepare(one)
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        start = perf_counter()
        for done in range(rounds):
            spent = perf_counter() - start
            if done >= MIN_ROUNDS and spent + spent / done > seconds:
                break
            for one in all_timed.values():
                clock.sample(one)
                progress()
    finally:
        if was_collecting:
            gc.enable()


def median(values: Sequence[float] | NDArray[np.float64]) -> float:
    """The median."""
    return float(np.median(values))


def quartiles(values: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """The first and the third quartile."""
    low, high = np.quantile(values, (0.25, 0.75))
    return [float(low), float(high)]


def ratios(one: Timed, other: Timed) -> NDArray[np.float64]:
    """How many times as long as another it took by wall time, round by round, so that slow phases of the machine cancel."""
    return np.array(one.samples["wall"]) / np.array(other.samples["wall"])
