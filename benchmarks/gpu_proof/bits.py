"""Every optimizer on every engine against the cpu engine, several at once, each in a process of its own.

What takes the time is compiling, which several processes share; and after an illegal access a process can do nothing more on the GPU.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from gpu_adam.engines.processors import usable_processors

from ..place import Place
from ..record import Report
from ..runner import run_part
from .bits_of_one import programs
from .cells import OPTIMIZERS, settings_of

DRY = (("GpuAdam", ""), ("GpuSgd", "momentum"))
"""Enough to try the plumbing."""

LEAST = 5.0
"""Seconds below which no process is begun."""


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Compare them all, and add up."""
    place = Place.gpu(report.dry_run)
    kinds = [(optimizer, settings) for optimizer in OPTIMIZERS for settings in settings_of(optimizer)]
    jobs = [(engine, *kind) for engine in place.engines for kind in (DRY if report.dry_run else kinds)]
    table: list[dict[str, Any]] = []
    # All of them, whether or not they are come to: what was not compared is not the same.
    of = sum(len(programs(place, *job[1:])) for job in jobs)
    report.result |= {"same": 0, "of": of, "table": table, "jobs": len(jobs)}

    def one(engine: str, optimizer: str, settings: str) -> dict[str, Any]:
        job = {"engine": engine, "optimizer": optimizer, "settings": settings}
        if report.seconds_left < LEAST:
            of = len(programs(place, optimizer, settings))
            return {**job, "of": of, "status": "not begun", "why": "the time was over"}
        found = run_part(
            f"{__package__}.bits_of_one",
            job,
            report.seconds_left - 2.0,
            dry_run=report.dry_run,
            added=_ENVIRONMENT,
        )
        return {**job, **found.pop("result"), **found}

    with ThreadPoolExecutor(_workers(report.dry_run)) as pool:
        for done in as_completed([pool.submit(one, *job) for job in jobs]):
            table.append(done.result())
            table.sort(key=lambda row: (row["engine"], row["optimizer"], row["settings"]))
            report.result["same"] = sum(row.get("same", 0) for row in table)
            report.save()


_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def _workers(dry_run: bool) -> int:
    return 1 if dry_run else max(1, min(14, usable_processors().count - 2))
