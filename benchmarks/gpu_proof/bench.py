"""The benchmark: cases one after the other, each contender checked and then timed by turns, written down case by case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..cases import CASES, DRY, Case, chosen, gpu_cases
from ..clocks import HostClock, Timed, gpu_clock
from ..measure import described, free, measured
from ..place import Place
from ..record import Report
from ..start import LIMIT
from ..timing import median, quartiles

ROUNDS = 15
SHARE = 0.35
"""Of the time of a case, for the rounds; the rest is for making the contenders and checking them."""

SECONDS = 4.0
"""The rounds of one case at most."""

LEAST = 6.0
SETTING_UP = 1e-7
"""Seconds below which no case is begun, and for each of its elements: bringing them to the device and back for the check takes long."""


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Measure the cases as far as the time goes, and say which were not come to.

    Args:
        report: Gets the figures.
        arguments: ``"cases"``: names, of the CPU benchmark's cases too; by default the GPU's cases that fit into its memory.
    """
    place = Place.gpu(report.dry_run)
    clock = gpu_clock(place)
    pending = wanted(arguments.get("cases"), report.dry_run, clock)
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
            found, kernels = figures(case, place, clock, seconds, 2 if report.dry_run else ROUNDS)
        except Exception as error:
            result["failed"][case.name] = f"{type(error).__name__}: {error}"[:500]
        else:
            result["cases"].append(found)
            result["kernels"] += [{**kernel, "dry_run": report.dry_run} for kernel in kernels]
            print(f"{case.name}: {len(found['rows'])} contenders, {report.seconds_left:.0f} s left", flush=True)
        # Only here: within, the contenders are still somebody's.
        free()
        report.save()


def wanted(names: list[str] | None, dry_run: bool, clock: HostClock) -> list[Case]:
    """The cases to measure."""
    usual = list(DRY if dry_run else gpu_cases(clock.free_memory()))
    if names is None:
        return usual
    taken = {case.name for case in usual}
    return chosen([*usual, *(case for case in CASES if case.name not in taken)], names)


def figures(
    case: Case, place: Place, clock: HostClock, seconds: float, rounds: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A case's figures, and those of steps that are one kernel."""
    left_out: dict[str, str] = {}
    timed, optimizers = measured(case, place, clock, rounds=rounds, seconds=seconds, left_out=left_out)
    rows = [row(label, one, timed.get(LIMIT), case.ideal_bytes) for label, one in timed.items()]
    return {**described(case), "rows": rows, "left_out": left_out}, list(_kernels(case, rows, optimizers))


def row(label: str, one: Timed, limit: Timed | None, bytes_moved: int) -> dict[str, Any]:
    """A contender's figures, in seconds: medians and quartiles, and what its device time is of the limit's."""
    found: dict[str, Any] = {"label": label, "rounds": len(one.samples["wall"])}
    for name in ("device", "host", "wall", "steady"):
        values = one.samples.get(name)
        found[name] = median(values) if values else None
        found[f"{name}_quartiles"] = quartiles(values) if values else None
    if found["device"]:
        found["bytes_per_second"] = bytes_moved / found["device"]
        if limit is not None and limit.samples.get("device"):
            found["to_limit"] = found["device"] / median(limit.samples["device"])
    return found


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
