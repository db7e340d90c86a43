"""What the prologue goes by, as the words that are sent to the device: see `gpu_adam.kernels.prologue`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from ..arrays.scalars import Scalar
from ..dtypes import FLOAT32, Format
from ..kernels.abi import (
    COHORT_WORDS,
    COHORTS,
    FOUND_ADDRESS,
    FOUND_FORMAT,
    HEADER_WORDS,
    LOSS_SCALE,
    LR_ADDRESS,
    LR_FORMAT,
    MAX_NORM,
    NARROW,
    RANGES,
    RANGES_AT,
    RECORD_AT,
    RECORD_WORDS,
    RESTS,
    ROW,
    SCALE_ADDRESS,
    SCALE_FORMAT,
    SCALER_ADDRESS,
    SKIP_NONFINITE,
    WINDOW,
    WINDOW_FIRST,
    WINDOW_LENGTH,
)
from ..plan.cohorts import Cohort, records_of
from ..plan.prologue import WINDOW_WORDS, SettingsLayout
from ..rules.algorithm import Hyperparameters
from ..rules.hyperparameters import Asked, Averaging
from .scaling import Scaling


@dataclass(frozen=True)
class Limits:
    """What a step does about the norm of its gradients.

    Attributes:
        max_norm: What it is clipped to; infinity to measure only.
        skip_nonfinite: Whether a step is skipped whose norm is not finite, or has a square beyond the narrowest working format.
        narrowest: That format, of all parameters.
    """

    max_norm: float = inf
    skip_nonfinite: bool = False
    narrowest: Format = FLOAT32


class Settings:
    """The words: a header, the cohorts, their records, the ranges of slots that are summed, and the windows of schedules.

    Args:
        cohorts: The cohorts of a plan.
        ranges: The ranges.
        layout: Where all of it lies.
    """

    def __init__(self, cohorts: Sequence[Cohort], ranges: Sequence[tuple[int, int]], layout: SettingsLayout) -> None:
        self._records, self._record_of = records_of(cohorts)
        self._layout = layout
        self.words: NDArray[np.int64] = np.zeros(layout.words, np.int64)
        self._numbers = self.words.view(np.float64)
        self._cohorts = self.words[HEADER_WORDS : layout.records_at].reshape(-1, COHORT_WORDS)
        self._cohorts[:, RECORD_AT] = layout.records_at + RECORD_WORDS * self._record_of
        self._cohorts[:, ROW] = [cohort.row for cohort in cohorts]
        self.words[COHORTS] = len(cohorts)
        self.words[RANGES] = len(ranges)
        self.words[RANGES_AT] = layout.ranges_at
        self.rest(np.zeros(len(cohorts), np.bool_), ranges)
        self._hyper: Sequence[Hyperparameters] | None = None
        self._header: tuple[Scaling, Limits] | None = None
        self._known: list[dict[int, list[float]]] = [{} for _ in self._records]

    @property
    def is_scheduled(self) -> bool:
        """Whether a hyperparameter is a function of the step, so that a window is needed."""
        return self._hyper is not None and any(self._hyper[group].is_scheduled for group, _ in self._records)

    def hold(self, hyper: Sequence[Hyperparameters], scaling: Scaling, limits: Limits) -> bool:
        """Whether they are these already."""
        return hyper is self._hyper and (scaling, limits) == self._header

    def rest(self, resting: NDArray[np.bool_], ranges: Sequence[tuple[int, int]]) -> None:
        """Take up which cohorts have no part in the step, and the ranges of the others' slots."""
        self._cohorts[:, RESTS] = resting
        self.words[self._layout.ranges_at : self._layout.windows_at] = np.array(ranges, np.int64).reshape(-1)

    def update(self, hyper: Sequence[Hyperparameters], averaging: Averaging, scaling: Scaling, limits: Limits) -> None:
        """Take up what a step is to do."""
        if hyper is not self._hyper:
            for number, (group, working) in enumerate(self._records):
                self._write_record(number, hyper[group], averaging, working)
            self._cohorts[:, WINDOW] = 0
            self._hyper = hyper
        if (scaling, limits) != self._header:
            self._write_header(scaling, limits)
            # Held, the memory of one step's numbers would not be that of the next one's, and the words would change in every step.
            self._header = (scaling.released(), limits)

    def update_windows(self, counts: NDArray[np.int64], behind: int) -> None:
        """Evaluate the schedules for every step that may be the next one.

        Args:
            counts: The cohorts' step counts at some moment.
            behind: How many steps have begun since, each of which may have been skipped or not; below ``WINDOW_ENTRIES``.

        Raises:
            TypeError, ValueError: If a function returns what is not allowed.
        """
        assert self._hyper is not None
        asked: Asked = {}
        at = self._layout.windows_at
        for number, (group, working) in enumerate(self._records):
            hyper, known = self._hyper[group], self._known[number]
            own = np.flatnonzero((self._record_of == number) & (self._cohorts[:, RESTS] == 0))
            if not hyper.is_scheduled or not len(own):
                continue
            # Cohorts of one step count have one window.
            found, which = np.unique(counts[own] + 1, return_inverse=True)
            firsts = found.tolist()
            wanted = dict.fromkeys(t for first in firsts for t in range(first, first + behind + 1))
            for t in wanted:
                if t not in known:
                    known[t] = hyper.scheduled(t, working, f"group {group}", asked)
            for t in known.keys() - wanted:
                del known[t]
            for k, first in enumerate(firsts):
                entries = [value for t in range(first, first + behind + 1) for value in known[t]]
                self._numbers[at + k * WINDOW_WORDS :][: len(entries)] = entries
            self._cohorts[own, WINDOW] = at + which * WINDOW_WORDS
            self._cohorts[own, WINDOW_FIRST] = found[which]
            self._cohorts[own, WINDOW_LENGTH] = behind + 1
            at += len(firsts) * WINDOW_WORDS

    def _write_record(self, number: int, hyper: Hyperparameters, averaging: Averaging, working: Format) -> None:
        at = self._layout.records_at + RECORD_WORDS * number
        self._numbers[at : at + RECORD_WORDS] = hyper.record(averaging, working)
        self.words[at + LR_ADDRESS], self.words[at + LR_FORMAT] = _place(hyper.lr_at)
        self._known[number] = {}

    def _write_header(self, scaling: Scaling, limits: Limits) -> None:
        self._numbers[MAX_NORM] = limits.max_norm
        self._numbers[SKIP_NONFINITE] = float(limits.skip_nonfinite)
        self._numbers[NARROW] = float(limits.narrowest is FLOAT32)
        self._numbers[LOSS_SCALE] = scaling.scale
        self.words[SCALE_ADDRESS], self.words[SCALE_FORMAT] = _place(scaling.scale_at)
        self.words[FOUND_ADDRESS], self.words[FOUND_FORMAT] = _place(scaling.found_at)
        self.words[SCALER_ADDRESS] = 0 if scaling.scaler is None else scaling.scaler.address


def _place(scalar: Scalar | None) -> tuple[int, int]:
    return (0, 0) if scalar is None else (scalar.address, scalar.format)
