"""Nsight Compute's counters of the main kernels: bytes that reached the memory against the plan's, bandwidth, occupancy, registers."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from ..record import LeftOut, Report
from ..runner import TAIL, guarded
from .profiled import MARK
from .sanitizers import SAMPLES

METRICS = {
    "gpu__time_duration.sum": "nanoseconds",
    "dram__bytes_read.sum": "dram_read",
    "dram__bytes_write.sum": "dram_written",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram_percent",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "sm_percent",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_percent",
    "sm__maximum_warps_per_active_cycle_pct": "occupancy_limit_percent",
    "launch__registers_per_thread": "registers",
}
"""What is asked for, and what it is called in the results."""


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Profile the kernels, and set what is counted beside what is planned.

    Raises:
        LeftOut: If ncu is not on the path, or may not read the counters.
    """
    program = shutil.which("ncu")
    command = [sys.executable, "-m", "benchmarks.gpu_proof.profiled", *(["--dry-run"] if report.dry_run else [])]
    if report.dry_run:
        outcome = guarded(command, report.seconds_left)
        text = outcome.output + (SAMPLES / "ncu.csv").read_text(encoding="utf-8")
    elif program is None:
        raise LeftOut("ncu is not on the PATH (Nsight Compute, which comes with the CUDA toolkit)")
    else:
        # The clocks are left as they are, so that bandwidths are those that a program sees.
        asked = ["--csv", "--print-units", "base", "--clock-control", "none", "--profile-from-start", "off"]
        asked += ["--target-processes", "all", "--metrics", ",".join(METRICS)]
        # In some languages a comma ends a number's integer part.
        outcome = guarded([program, *asked, *command], report.seconds_left - 2.0, {"LC_ALL": "C.UTF-8"})
        text = outcome.output
    rows = list(beside(planned(text.splitlines()), list(profiled(text.splitlines()))))
    report.result |= {
        "rows": rows,
        "kernels": [
            {
                "name": one["name"],
                "case": one["case"],
                "elements": one["elements"],
                "seconds": one["nanoseconds"] / 1e9,
                "bytes": one["bytes_read"] + one["bytes_written"],
                "how": "ncu",
                "dry_run": report.dry_run,
            }
            for one in rows
            if one.get("nanoseconds")
        ],
    }
    report.save()
    if not rows:
        refused = next((line for line in text.splitlines() if line.startswith("==ERROR==")), None)
        if refused is not None:
            raise LeftOut(f"ncu cannot read the counters: {refused.removeprefix('==ERROR==').strip()}")
        raise RuntimeError(f"ncu told of no kernel: {outcome.status} {outcome.why}\n{text[-TAIL:]}")
    if outcome.status != "done":
        raise RuntimeError(f"not all kernels were profiled: {outcome.status} {outcome.why}\n{text[-TAIL:]}")


def planned(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The launches that the program told of, in their order."""
    return [json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]


def profiled(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What ncu tells of each kernel, in the order of the launches: a line a metric, of which the first two columns name the kernel."""
    lines = [line for line in lines if line.startswith('"')]
    found: dict[str, dict[str, Any]] = {}
    for line in csv.DictReader(lines):
        if not (line.get("ID") or "").isdigit():
            continue  # the heads come again for each process
        one = found.setdefault(f"{line['Process ID']}:{line['ID']}", {"kernel": line["Kernel Name"]})
        one["grid"], one["block"] = line.get("Grid Size", ""), line.get("Block Size", "")
        name = METRICS.get(line["Metric Name"])
        if name is not None:
            one[name] = _number(line["Metric Value"])
    yield from found.values()


def _number(text: str) -> float | None:
    """A number with commas between its thousands; ``None`` for a metric that the GPU does not have."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def beside(plans: list[dict[str, Any]], found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each launch with what was counted of it."""
    for plan, one in zip(plans, found, strict=False):
        row = {**plan, **one}
        seconds = (one.get("nanoseconds") or 0) / 1e9
        moved = (one.get("dram_read") or 0) + (one.get("dram_written") or 0)
        meant = plan["bytes_read"] + plan["bytes_written"]
        if seconds and moved:
            row["dram_bytes_per_second"] = moved / seconds
            row["moved_to_planned"] = moved / meant if meant else None
        yield row
