"""The picture of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dependencies import require
from .loop import Result


def smoothed(values: Sequence[float], weight: float) -> NDArray[np.float64]:
    """An exponential moving average, its start corrected for the bias towards zero as Adam corrects its moments.

    Args:
        values: What to smooth.
        weight: The share of the newest value, in (0, 1].

    >>> smoothed([2.0, 2.0, 5.0], weight=0.5)
    array([2.        , 2.        , 3.71428571])
    """
    averages = np.empty(len(values))
    average = total = 0.0
    for k, value in enumerate(values):
        average += weight * (value - average)
        total += weight * (1 - total)
        averages[k] = average / total
    return averages


def save(result: Result, title: str, path: Path) -> None:
    """Draw the training loss of each step and the test accuracy of each epoch, as a PNG file.

    Raises:
        MissingDependency: If matplotlib is not installed.
        OSError: If the file cannot be written.
    """
    # A figure without pyplot needs no display and leaves the caller's backend alone.
    figure: Any = require("matplotlib.figure").Figure(figsize=(7, 6), layout="constrained")
    loss, accuracy = figure.subplots(2, sharex=True)
    epochs = len(result.accuracies)
    steps = len(result.losses)
    at = np.arange(1, steps + 1) * epochs / steps
    loss.semilogy(at, result.losses, color="tab:blue", alpha=0.25, linewidth=0.5, label="each step")
    loss.semilogy(at, smoothed(result.losses, min(1.0, 100 / steps)), color="tab:blue", label="smoothed")
    loss.set_ylabel("training loss (cross-entropy)")
    loss.legend()
    loss.set_title(title)
    accuracy.plot(
        np.arange(1, epochs + 1),
        [100 * value for value in result.accuracies],
        ".-",
        color="tab:orange",
        label="parameters",
    )
    if result.averaged_accuracies:
        averaged = [100 * value for value in result.averaged_accuracies]
        accuracy.plot(np.arange(1, epochs + 1), averaged, ".-", color="tab:green", label="their average")
        accuracy.legend()
    accuracy.set_ylabel("test accuracy, %")
    accuracy.set_xlabel("epoch")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=120)
