"""What runs came to: the best of each curve, and whether their order is the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from .experiments import BETAS1, BETAS2, vae_label
from .published import CURVES

Outcome = Mapping[str, Any]
"""A run as it stands in the results: ``label``, ``chosen`` (the arguments searched over), ``costs``, ``diverged``, ``seconds``."""


def best(runs: Sequence[Outcome], epoch: int | None = None) -> dict[str, Outcome]:
    """For each curve the run with the lowest cost in its last epoch, or in another; what diverged is never chosen.

    Curves of which every run diverged are absent.
    """
    found: dict[str, Outcome] = {}
    for run in runs:
        if run["diverged"] is not None:
            continue
        at = -1 if epoch is None else epoch - 1
        if run["label"] not in found or run["costs"][at] < found[run["label"]]["costs"][at]:
            found[run["label"]] = run
    return found


@dataclass(frozen=True)
class Ranking:
    """The order of the curves by their costs, the lowest first.

    Attributes:
        variant: What the curves have in common, ``"dropout"`` or nothing.
        ours: Here.
        paper: In the paper, of the same curves.
        epoch: After so many epochs in the paper: of those told for all curves the one nearest to ours.
        agreeing: How many of the pairs of curves are in the same order.
        pairs: Of so many.
    """

    variant: str
    ours: Sequence[str]
    paper: Sequence[str]
    epoch: int
    agreeing: int
    pairs: int

    @property
    def adam_lowest(self) -> bool:
        """Whether Adam ends with the lowest cost here."""
        return self.ours[0].startswith("Adam")


def rankings(name: str, runs: Sequence[Outcome]) -> list[Ranking]:
    """The rankings of an experiment whose curves are the paper's: one, or one for each variant."""
    ends = {label: run["costs"][-1] for label, run in best(runs).items()}
    epochs = max(len(run["costs"]) for run in runs)
    told = {label: curve for label, curve in CURVES[name].items() if label in ends}
    found = []
    for variant in dict.fromkeys(label.partition(", ")[2] for label in told):
        labels = [label for label in told if label.partition(", ")[2] == variant]
        if len(labels) < 2:
            continue
        common = set.intersection(*(set(told[label]) for label in labels))
        epoch = min(common, key=lambda one: abs(one - epochs))
        paper = {label: told[label][epoch] for label in labels}
        pairs = list(combinations(labels, 2))
        agreeing = sum((ends[a] < ends[b]) == (paper[a] < paper[b]) for a, b in pairs)
        ours, theirs = sorted(labels, key=ends.__getitem__), sorted(labels, key=paper.__getitem__)
        found.append(Ranking(variant, ours, theirs, epoch, agreeing, len(pairs)))
    return found


@dataclass(frozen=True)
class Correction:
    """The best losses of a panel of figure 4, each with its learning rate; ``None`` where all diverged."""

    beta1: float
    beta2: float
    with_correction: tuple[float, float] | None
    without: tuple[float, float] | None

    @property
    def helps(self) -> bool:
        """Whether the best loss with bias correction is the lower one."""
        if self.with_correction is None or self.without is None:
            return self.without is None
        return self.with_correction[0] < self.without[0]


def corrections(runs: Sequence[Outcome], epoch: int | None = None) -> list[Correction]:
    """The six panels of figure 4, after so many epochs."""
    lowest = best(runs, epoch)

    def loss(label: str) -> tuple[float, float] | None:
        if label not in lowest:
            return None
        run = lowest[label]
        return run["costs"][-1 if epoch is None else epoch - 1], run["chosen"]["lr"]

    return [
        Correction(beta1, beta2, loss(vae_label(beta1, beta2, True)), loss(vae_label(beta1, beta2, False)))
        for beta1 in BETAS1
        for beta2 in BETAS2
    ]
