"""Timing in turns: every contender once, and again, so that a noisy machine is noisy for all of them alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_SAMPLE = 2e-3
"""Seconds that a sample takes at least: shorter steps are repeated within it, and are then at home in the caches."""

MIN_ROUNDS = 5
"""Rounds however long they take; fewer have no quartiles to speak of."""


@dataclass(frozen=True)
class Samples:
    """Seconds of one step, one number a round.

    Attributes:
        seconds: In the order of the rounds.
        inner: Steps in each sample.
    """

    seconds: NDArray[np.float64]
    inner: int

    @property
    def median(self) -> float:
        """The median."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile."""
        return quartiles(self.seconds)

    def ratios(self, other: Samples) -> NDArray[np.float64]:
        """How many times as long as another contender it took, round by round, so that slow phases of the machine cancel."""
        return self.seconds / other.seconds


def quartiles(values: NDArray[np.float64]) -> tuple[float, float]:
    """The first and the third quartile."""
    low, high = np.quantile(values, (0.25, 0.75))
    return float(low), float(high)


def interleave(
    steps: Mapping[str, Callable[[], Any]],
    *,
    repeats: int,
    budget: float,
    synchronize: Callable[[], Any] = lambda: None,
    progress: Callable[[], Any] = lambda: None,
) -> dict[str, Samples]:
    """Time all steps in rounds: A B C, A B C, …

    Args:
        steps: What to time; each has run before.
        repeats: Rounds, where the budget allows.
        budget: Seconds that the rounds may take, as long as that leaves ``MIN_ROUNDS`` (or ``repeats`` if fewer).
        synchronize: Waits for a device.
        progress: Called after each sample.
    """
    calls = {label: _calibrated(step, synchronize) for label, step in steps.items()}
    samples: dict[str, list[float]] = {label: [] for label in steps}
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = perf_counter()
        for done in range(repeats):
            spent = perf_counter() - start
            if done >= MIN_ROUNDS and spent + spent / done > budget:
                break
            for label, (step, inner) in calls.items():
                # Untimed: each contender comes to its memory after the others have had the caches and the page tables to themselves.
                step()
                samples[label].append(_seconds(step, inner, synchronize))
                progress()
    finally:
        if collecting:
            gc.enable()
    return {label: Samples(np.array(seconds), calls[label][1]) for label, seconds in samples.items()}


def _calibrated(step: Callable[[], Any], synchronize: Callable[[], Any]) -> tuple[Callable[[], Any], int]:
    """The step, and how many of it make a sample."""
    once = _seconds(step, 1, synchronize)
    if once < MIN_SAMPLE:
        # The least of some, lest a moment in which the machine was busy elsewhere is taken for slowness.
        once = min(_seconds(step, 3, synchronize) for _ in range(3))
    return step, max(1, ceil(MIN_SAMPLE / once))


def _seconds(step: Callable[[], Any], inner: int, synchronize: Callable[[], Any]) -> float:
    synchronize()
    start = perf_counter()
    for _ in range(inner):
        step()
    synchronize()
    return (perf_counter() - start) / inner
