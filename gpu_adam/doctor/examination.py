"""Each engine tried: whether it runs, whether its bits are the reference's, how near to the memory's speed it comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from ..arrays import to_host
from ..cuda import driver
from ..dtypes import Format
from ..engines import engine_named
from ..errors import EngineUnavailable
from ..optim import GpuAdam
from .libraries import LIBRARIES, Array, Library
from .reference import BETAS, CLIPPED, EPS, LR, SIZES, STEPS, VALUES, WEIGHT_DECAY, Element, clip_factor, stored
from .rehearsal import rehearse

ROUNDS = 7
"""Of the measurement, of whose times the median is taken."""

WAYS: dict[str, dict[str, Any]] = {"flat": {"pack": True}, "multi-tensor": {}, "clipped": {"max_grad_norm": 1.0}}
"""What is compared in each format: options of the optimizer."""


@dataclass(frozen=True)
class Check:
    """One comparison of bits: which kernel, and what differs, if anything does."""

    what: str
    difference: str | None


@dataclass(frozen=True)
class Speed:
    """Bytes per second of a step and of a copy of as many bytes, medians of the same rounds."""

    elements: int
    step: float
    copy: float

    @property
    def share(self) -> float:
        """What a step reaches of the copy."""
        return self.step / self.copy


@dataclass
class EngineReport:
    """What became of one engine.

    Attributes:
        name: The engine's.
        unavailable: Why it cannot run here, and what to install; ``None`` if it can.
        error: What went wrong where it should have run.
        compile_seconds: The time of the first step, in which a kernel was compiled or found in the cache folder.
        checks: The comparisons of bits.
        speed: What it reaches.
        speed_error: Why the speed could not be measured; no fault of the engine.
    """

    name: str
    unavailable: str | None = None
    error: str | None = None
    compile_seconds: float | None = None
    checks: list[Check] = field(default_factory=list)
    speed: Speed | None = None
    speed_error: str | None = None

    @property
    def works(self) -> bool:
        """Whether it runs and its bits are right."""
        return self.unavailable is None and self.sound

    @property
    def sound(self) -> bool:
        """Whether it does not run, or runs with the right bits."""
        return self.error is None and all(check.difference is None for check in self.checks)


def examine_engine(name: str) -> EngineReport:
    """Compile, compare and measure with one engine."""
    report = EngineReport(name)
    try:
        engine_named(name)
        library = LIBRARIES[name]()
        ended = rehearse(name)
        if ended is not None:
            report.error = ended
            return report
        start = perf_counter()
        _first_step(name, library)
        report.compile_seconds = perf_counter() - start
    except EngineUnavailable as error:
        report.unavailable = str(error)
        return report
    except Exception as error:  # a broken installation may raise anything, and is what the doctor is called for
        remedy = "pip install --upgrade gpu_adam numba" if name == "cpu" else driver.remedy()
        report.error = f"{type(error).__name__}: {error} (what may help: {remedy})"
        return report
    report.checks.extend(self_check(name, library))
    try:
        report.speed = measure(name, library)
    except Exception as error:  # too little memory, most likely
        report.speed_error = f"{type(error).__name__}: {error}"
    return report


def _first_step(engine: str, library: Library) -> None:
    parameter = library.put(np.ones(1, np.float32))
    GpuAdam([parameter], engine=engine).step([library.put(np.ones(1, np.float32))])
    library.synchronize()


def try_engine(name: str) -> None:
    """Run what the doctor compares, and leave the comparison to it."""
    engine_named(name)
    library = LIBRARIES[name]()
    _first_step(name, library)
    for _ in self_check(name, library):
        pass


def self_check(engine: str, library: Library) -> Iterator[Check]:
    """Compare a few steps with the reference, bit by bit, in each format: both kernel families, and clipping.

    What raises an exception is a difference too, and the others are tried all the same.
    """
    for format in library.formats:
        for way, options in WAYS.items():
            master = " with master weights" if format.itemsize == 2 else ""
            try:
                difference = _compare(engine, library, format, options)
            except Exception as error:
                difference = f"could not be run: {type(error).__name__}: {error}"
            yield Check(f"{format}{master}, {way}", difference)


def _compare(engine: str, library: Library, format: Format, options: dict[str, Any]) -> str | None:
    start = [stored(value, format) for value in VALUES]
    if "max_grad_norm" in options:
        gradients = [list(CLIPPED)] * STEPS
    else:
        # The gradients pass by the parameters, so that each step pairs other values.
        gradients = [start[5 * t :] + start[: 5 * t] for t in range(1, STEPS + 1)]
    elements = [Element(p, working=format.working) for p in start]
    for t, gradient in enumerate(gradients, 1):
        scale = clip_factor(gradient, options.get("max_grad_norm"))
        for element, g in zip(elements, gradient, strict=True):
            element.step(g, t, scale)
    expected = {
        "parameter": [stored(element.p, format) for element in elements],
        "exp_avg": [element.m for element in elements],
        "exp_avg_sq": [element.v for element in elements],
    }
    return _difference(_steps(engine, library, format, start, gradients, options), expected)


def _steps(
    engine: str,
    library: Library,
    format: Format,
    start: list[float],
    gradients: list[list[float]],
    options: dict[str, Any],
) -> dict[str, list[float]]:
    params = [library.put(part) for part in _split(start, format)]
    optimizer = GpuAdam(params, LR, BETAS, EPS, WEIGHT_DECAY, engine=engine, **options)
    for gradient in gradients:
        parts = _split(gradient, format)
        if options.get("pack"):
            for view, part in zip(optimizer.grads, parts, strict=True):
                library.fill(view, part)
            optimizer.step()
        else:
            optimizer.step([library.put(part) for part in parts])
    library.synchronize()
    states = optimizer.state_dict()["state"].values()
    return {
        "parameter": _joined(optimizer.params),
        "exp_avg": _joined([state["exp_avg"] for state in states]),
        "exp_avg_sq": _joined([state["exp_avg_sq"] for state in states]),
    }


def _split(values: list[float], format: Format) -> list[Array]:
    # The values are numbers of the format, so the conversion rounds nothing.
    whole = np.array(values, format.working.dtype).astype(format.dtype)
    return np.split(whole, np.cumsum(SIZES)[:-1])


def _joined(arrays: Sequence[Any]) -> list[float]:
    return [float(x) for array in arrays for x in to_host(array).astype(np.float64)]


def _difference(found: dict[str, list[float]], expected: dict[str, list[float]]) -> str | None:
    wrong = [
        f"element {k} of {name} is {a!r} and must be {b!r}"
        for name, values in expected.items()
        for k, (a, b) in enumerate(zip(found[name], values, strict=True))
        if not (a == b and math.copysign(1.0, a) == math.copysign(1.0, b)) and not (math.isnan(a) and math.isnan(b))
    ]
    return f"{len(wrong)} of {3 * len(VALUES)} numbers are wrong; {wrong[0]}" if wrong else None


def measure(engine: str, library: Library) -> Speed:
    """A step and a copy of as many bytes in turns; medians."""
    elements = library.elements
    parameter = library.put(np.ones(elements, np.float32))
    gradient = library.put(np.full(elements, 0.5, np.float32))
    optimizer = GpuAdam([parameter], engine=engine)
    optimizer.grads = [gradient]
    nbytes = optimizer.plan.bytes_moved
    copy = library.copier(elements)
    seconds: dict[Callable[[], object], list[float]] = {optimizer.step: [], copy: []}
    for timed in range(1 + ROUNDS):
        for run, times in seconds.items():
            library.synchronize()
            start = perf_counter()
            run()
            library.synchronize()
            if timed:
                times.append(perf_counter() - start)
    step_seconds, copy_seconds = (median(times) for times in seconds.values())
    return Speed(elements, nbytes / step_seconds, nbytes / copy_seconds)
