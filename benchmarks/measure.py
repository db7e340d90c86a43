"""A case's contenders: made, checked, and timed by turns."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .cases import Case
from .check import WrongResult, check
from .clocks import Clock, Timed
from .contenders import entries
from .place import Place
from .start import Contender, Start
from .timing import by_turns


def measured(
    case: Case,
    place: Place,
    clock: Clock,
    *,
    rounds: int,
    seconds: float,
    progress: Callable[[], Any] = lambda: None,
    left_out: dict[str, str] | None = None,
) -> tuple[dict[str, Timed], dict[str, Any]]:
    """What was timed, and of our own the optimizers, by label.

    Args:
        case: The case.
        place: Where to measure it.
        clock: What tells the time there.
        rounds: Rounds at most.
        seconds: What the rounds may take.
        progress: Called after each sample.
        left_out: Gets by label why a contender cannot be made or is wrong; without it that is an error.

    Raises:
        WrongResult: If a contender does not compute what it should, and there is no ``left_out``.
    """
    start = Start.of(case)
    timed: dict[str, Timed] = {}
    optimizers: dict[str, Any] = {}
    for contender in _checked(start, place, left_out):
        for label, step in contender.steps.items():
            timed[label] = Timed(step, contender.wait, on_stream=contender.wait is None, before=contender.before)
            if contender.optimizer is not None:
                optimizers[label] = contender.optimizer
    by_turns(timed, clock, rounds=rounds, seconds=seconds, progress=progress)
    return timed, optimizers


def _checked(start: Start, place: Place, left_out: dict[str, str] | None) -> Iterator[Contender]:
    """The contenders that can be made and compute what they should."""
    for entry in entries(start.case, place):
        try:
            for contender in entry.make(start):
                try:
                    check(contender, start)
                except WrongResult as error:
                    if left_out is None:
                        raise
                    # The entry's others may be right.
                    left_out[next(iter(contender.steps))] = f"{type(error).__name__}: {error}"[:500]
                else:
                    yield contender
        except Exception as error:
            if left_out is None:
                raise
            left_out[entry.label] = f"{type(error).__name__}: {error}"[:500]
        if left_out and entry.label in left_out:
            free()  # only when the error, which holds on to what was made, is gone


def described(case: Case) -> dict[str, Any]:
    """What results say of a case."""
    return {
        "name": case.name,
        "kind": case.kind,
        "format": case.format,
        "variant": case.variant,
        "optimizer": case.optimizer,
        "gradients": case.gradients,
        "tensors": len(case.shapes),
        "elements": case.elements,
        "updated": case.updated,
        "bytes": case.ideal_bytes,
    }


def free() -> None:
    """Have the libraries give back what nobody uses any more."""
    gc.collect()
    if "cupy" in sys.modules and sys.modules["cupy"].cuda.is_available():
        sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()
