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
    COHORTS,
    FOUND_ADDRESS,
    FOUND_FORMAT,
    LOSS_SCALE,
    LR_ADDRESS,
    LR_FORMAT,
    MAX_NORM,
    NARROW,
    RANGES,
    RANGES_AT,
    RECORD_WORDS,
    ROW,
    SCALE_ADDRESS,
    SCALE_FORMAT,
    SCALER_ADDRESS,
    SCHEDULED_WORDS,
    SKIP_NONFINITE,
    WINDOW,
    WINDOW_FIRST,
    WINDOW_LENGTH,
)
from ..plan.cohorts import Cohort
from ..plan.prologue import WINDOW_ENTRIES, record_at, settings_words, windows_at
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
    """The words: a header, a record for each cohort, the ranges of slots that are summed, and the windows of schedules."""

    def __init__(self, cohorts: Sequence[Cohort], ranges: Sequence[tuple[int, int]]) -> None:
        self._cohorts = tuple(cohorts)
        first_range = record_at(len(cohorts))
        self._windows_at = windows_at(len(cohorts), len(ranges))
        self.words: NDArray[np.int64] = np.zeros(settings_words(len(cohorts), len(ranges)), np.int64)
        self._numbers = self.words.view(np.float64)
        self.words[COHORTS] = len(cohorts)
        self.words[RANGES] = len(ranges)
        self.words[RANGES_AT] = first_range
        self.words[first_range : self._windows_at] = np.array(ranges, np.int64).reshape(-1)
        self._hyper: Sequence[Hyperparameters] | None = None
        self._header: tuple[Scaling, Limits] | None = None
        self._known: list[dict[int, list[float]]] = [{} for _ in cohorts]

    @property
    def is_scheduled(self) -> bool:
        """Whether a hyperparameter is a function of the step, so that a window is needed."""
        return self._hyper is not None and any(self._hyper[cohort.group].is_scheduled for cohort in self._cohorts)

    def hold(self, hyper: Sequence[Hyperparameters], scaling: Scaling, limits: Limits) -> bool:
        """Whether they are these already."""
        return hyper is self._hyper and (scaling, limits) == self._header

    def update(self, hyper: Sequence[Hyperparameters], averaging: Averaging, scaling: Scaling, limits: Limits) -> None:
        """Take up what a step is to do."""
        if hyper is not self._hyper:
            for index, cohort in enumerate(self._cohorts):
                self._write_record(index, cohort, hyper[cohort.group], averaging)
            self._hyper = hyper
        if (scaling, limits) != self._header:
            self._write_header(scaling, limits)
            # Held, the memory of one step's numbers would not be that of the next one's, and the words would change in every step.
            self._header = (scaling.released(), limits)

    def update_windows(self, counts: Sequence[int], behind: int) -> None:
        """Evaluate the schedules for every step that may be the next one.

        Args:
            counts: The cohorts' step counts at some moment.
            behind: How many steps have begun since, each of which may have been skipped or not; below ``WINDOW_ENTRIES``.

        Raises:
            TypeError, ValueError: If a function returns what is not allowed.
        """
        assert self._hyper is not None
        asked: Asked = {}
        for index, cohort in enumerate(self._cohorts):
            hyper = self._hyper[cohort.group]
            if not hyper.is_scheduled:
                continue
            first = int(counts[index]) + 1
            known = self._known[index]
            steps = range(first, first + behind + 1)
            for t in steps:
                if t not in known:
                    known[t] = hyper.scheduled(t, cohort.working, f"group {cohort.group}", asked)
            for t in [t for t in known if t < first]:
                del known[t]
            at = self._windows_at + index * WINDOW_ENTRIES * SCHEDULED_WORDS
            entries = [value for t in steps for value in known[t]]
            self._numbers[at : at + len(entries)] = entries
            record = record_at(index)
            self.words[record + WINDOW], self.words[record + WINDOW_FIRST] = at, first
            self.words[record + WINDOW_LENGTH] = len(steps)

    def _write_record(self, index: int, cohort: Cohort, hyper: Hyperparameters, averaging: Averaging) -> None:
        at = record_at(index)
        self._numbers[at : at + RECORD_WORDS] = hyper.record(averaging, cohort.working)
        self.words[at + ROW] = cohort.row
        self.words[at + LR_ADDRESS], self.words[at + LR_FORMAT] = _place(hyper.lr_at)
        self._known[index] = {}

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
