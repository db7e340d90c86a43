"""Whether a contender computes what it should, which is asked before it is timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .rules import LR, RULES
from .start import Contender, Start

CHECKED_STEPS = 3
"""Steps of each way before anything is timed; the third is the first whose bias corrections are no special case."""

SAMPLE = 1 << 15
"""Elements of a tensor that are checked: every rule looks at each element alone, so a sample needs no other."""

MOST_TENSORS = 1024
"""Tensors that are checked: of longer lists the first, the last and some between."""


@dataclass(frozen=True)
class Tolerance:
    """What is allowed: an error of the parameter's size for each rounding of it, and one of the step's size for each step."""

    rounding: float
    step: float


TOLERANCES = {
    # Half an ulp is 2^-24; the second number covers the moments' dozen roundings.
    "float32": Tolerance(2.0**-23, 1e-5),
    # bfloat16 keeps 2^-9. Without a master copy that is lost at each step, and the moments are as coarse.
    "bfloat16": Tolerance(2.0**-8, 2.0**-3),
}


class WrongResult(AssertionError):
    """A contender does not compute what it should."""


def check(contender: Contender, start: Start) -> None:
    """Step each way a few times, and compare with the same in float64, computed by the papers' formulas.

    Raises:
        WrongResult: If any checked element, of a parameter or of an average, is off by more than ``TOLERANCES`` allow.
    """
    for step in contender.steps.values():
        for _ in range(CHECKED_STEPS):
            if contender.before is not None:
                contender.before()
            step()
            contender.taken += 1
    if contender.params is None:
        return
    tolerance = TOLERANCES[start.case.format]
    absent = [contender.absent(t) for t in range(1, contender.taken + 1)]
    roundings = 1 if start.case.format == "bfloat16" and contender.master else contender.taken
    allowed_step = (tolerance.step + contender.slack) * LR * contender.taken
    found = {"tensor": contender.params()}
    if contender.averages is not None:
        found["the average of tensor"] = contender.averages()
    rng = np.random.default_rng(1412)
    count = len(start.params)
    for index in np.unique(np.linspace(0, count - 1, min(count, MOST_TENSORS)).astype(int)):
        param, grad = start.params[index], start.grads[index]
        n = param.size
        places: Any = slice(None)
        if n > SAMPLE:
            ends = np.arange(SAMPLE // 4)
            places = np.unique(np.concatenate((ends, n - 1 - ends, rng.integers(0, n, SAMPLE // 2))))
        theta, gradient = (array.reshape(-1)[places].astype(float) for array in (param, grad))
        paper = RULES[start.case.optimizer].paper(theta, **start.hyperparameters)
        # In a step without a gradient nothing moves, and none is counted.
        path = [paper.theta if index in gone else paper.step(contender.factor * gradient) for gone in absent]
        mean = theta
        for t, theta in enumerate(path, start=1):
            mean = mean + contender.weight(t) * (theta - mean)
        for (what, arrays), expected in zip(found.items(), (path[-1], mean), strict=False):
            error = np.abs(arrays[index].reshape(-1)[places] - expected)
            if not (error <= tolerance.rounding * roundings * np.abs(expected) + allowed_step).all():
                label = next(iter(contender.steps))
                raise WrongResult(
                    f"{label} on {start.case.name}: {what} {index} is off by as much as {error.max():.3g}"
                )
