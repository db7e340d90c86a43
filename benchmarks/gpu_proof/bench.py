"""The benchmark: cases one after the other, each contender checked and then timed by turns, written down case by case."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

from ..cases import Case, chosen
from ..check import WrongResult, check
from ..start import LIMIT, Contender, Start
from .bench_cases import DRY, cases
from .clocks import HostClock, clock_of
from .competitors import Waited
from .contenders import Ours, entries
from .place import Place
from .record import Report
from .timing import Timed, by_turns, row

ROUNDS = 15
SHARE = 0.35
"""Of the time of a case, for the rounds; the rest is for making the contenders and checking them."""

SECONDS = 4.0
"""The rounds of one case at most."""

LEAST = 6.0
SETTING_UP = 1e-7
"""Seconds below which no case is begun, and for each of its elements: bringing them to the device and back for the check takes long."""


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Measure the cases as far as the time goes, and say which were not come to."""
    place = Place.of(report.dry_run)
    clock = clock_of(place)
    pending: list[Case] = list(DRY if report.dry_run else cases(clock.free_memory()))
    pending = chosen(pending, arguments.get("cases"))
    result = report.result
    result |= {
        "cases": [],
        "kernels": [],
        "failed": {},
        "missing": [case.name for case in pending],
        "cache": "another memory is read before each device time",
    }
    for case in [*pending]:
        if report.seconds_left < LEAST + SETTING_UP * case.elements:
            continue
        pending.remove(case)
        seconds = min(SECONDS, SHARE * report.seconds_left / (len(pending) + 1) if not report.dry_run else 0.2)
        result["missing"] = [other.name for other in pending]
        try:
            found, kernels = measured(case, place, clock, seconds, 2 if report.dry_run else ROUNDS)
        except Exception as error:
            result["failed"][case.name] = f"{type(error).__name__}: {error}"[:500]
        else:
            result["cases"].append(found)
            result["kernels"] += [{**kernel, "dry_run": report.dry_run} for kernel in kernels]
            print(f"{case.name}: {len(found['rows'])} contenders, {report.seconds_left:.0f} s left", flush=True)
        # Only here: within, the contenders are still somebody's.
        _free()
        report.save()


def measured(
    case: Case, place: Place, clock: HostClock, seconds: float, rounds: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A case's figures, and those of steps that are one kernel."""
    start = Start.of(case)
    left_out: dict[str, str] = {}
    timed: dict[str, Timed] = {}
    optimizers: dict[str, Any] = {}
    for contender in _made(case, start, place, left_out):
        waited = isinstance(contender, Waited)
        for label, step in contender.steps.items():
            timed[label] = Timed(step, contender.wait if waited else None, on_stream=not waited)  # type: ignore[attr-defined]
            if isinstance(contender, Ours):
                optimizers[label] = contender.optimizer
    by_turns(timed, clock, rounds=rounds, seconds=seconds)
    rows = [row(label, one, timed.get(LIMIT), case.ideal_bytes) for label, one in timed.items()]
    found = {
        "name": case.name,
        "kind": case.kind,
        "format": case.format,
        "variant": case.variant,
        "tensors": len(case.shapes),
        "elements": case.elements,
        "bytes": case.ideal_bytes,
        "rows": rows,
        "left_out": left_out,
    }
    return found, list(_kernels(case, rows, optimizers))


def _made(case: Case, start: Start, place: Place, left_out: dict[str, str]) -> Iterator[Contender]:
    """The contenders that can be made and compute what they should; why the others are left out."""
    for entry in entries(case, place):
        try:
            for contender in entry.make(start):
                try:
                    check(contender, start)
                except WrongResult as error:
                    # The entry's others may be right.
                    left_out[next(iter(contender.steps))] = f"{type(error).__name__}: {error}"[:500]
                else:
                    yield contender
        except Exception as error:
            left_out[entry.label] = f"{type(error).__name__}: {error}"[:500]
        if entry.label in left_out:
            _free()  # only when the error, which holds on to what was made, is gone


def _kernels(case: Case, rows: list[dict[str, Any]], optimizers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps whose device time is one kernel's."""
    for one in rows:
        optimizer = optimizers.get(one["label"])
        if optimizer is None or one["device"] is None:
            continue
        plan = optimizer.plan
        if plan.prologues or len(plan.launches) != 1:
            continue
        (launch,) = plan.launches
        yield {
            "name": launch.specialization.name,
            "case": case.name,
            "label": one["label"],
            "elements": launch.elements,
            "seconds": one["device"],
            "bytes": launch.bytes_read + launch.bytes_written,
            "how": "events",
        }


def _free() -> None:
    """Have the libraries give back what nobody uses any more."""
    gc.collect()
    if "cupy" in sys.modules and sys.modules["cupy"].cuda.is_available():
        sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()
