"""What one step is asked for, in one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..plan.cohorts import Mode
from ..rules.algorithm import Hyperparameters
from .scaling import Scaling
from .settings import Limits


class Request(NamedTuple):
    """A step.

    Attributes:
        hyper: The groups' hyperparameters, the same object as long as they are the same.
        scaling: How the gradients are scaled.
        limits: What is done about their norm.
        mode: How the step comes to its coefficients.
        arrays: One gradient or ``None`` for each parameter.
        is_lasting: Whether the list stands for the same arrays in the next step.
        stream: The stream to run on; ``None`` for the library's current one.
        is_captured: Whether the step is being captured in a graph.
        follows_replays: Whether steps were run without the host, so that it waits for the device's step counts.
    """

    hyper: Sequence[Hyperparameters]
    scaling: Scaling
    limits: Limits
    mode: Mode
    arrays: Sequence[Any] = ()
    is_lasting: bool = False
    stream: int | None = None
    is_captured: bool = False
    follows_replays: bool = False
