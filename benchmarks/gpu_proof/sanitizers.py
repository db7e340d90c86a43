"""NVIDIA's compute-sanitizer over a small run that covers every family of kernels on every engine."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

from ..record import LeftOut, Report
from ..runner import TAIL, guarded
from .covering import ENDED

TOOLS = ("memcheck", "racecheck", "initcheck")
SAMPLES = Path(__file__).resolve().parent / "samples"
"""Output of the tools as NVIDIA documents it, for dry runs and tests."""

FOUND = 86
"""The exit status for errors that the tool has found, which the run itself never has."""

OPTIONS = (
    # Libraries look for functions that a driver need not have, and each miss would count as an error. The engines check what they call.
    *("--report-api-errors", "no"),
    # By default a program that has not come to CUDA after some seconds is given up: importing takes longer under a tool.
    *("--launch-timeout", "0"),
    *("--error-exitcode", str(FOUND)),
    *("--print-limit", "20"),
)


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Run each tool.

    Raises:
        LeftOut: If compute-sanitizer is not on the path.
        RuntimeError: If the run fails without a tool, or a tool does not come to an answer.
    """
    program = shutil.which("compute-sanitizer")
    if report.dry_run:
        program = None
    elif program is None:
        raise LeftOut("compute-sanitizer is not on the PATH (it comes with the CUDA toolkit)")
    covering = [sys.executable, "-m", "benchmarks.gpu_proof.covering", *(["--dry-run"] if report.dry_run else [])]
    # Once without a tool: the kernels are then compiled, and a run that fails by itself is told apart.
    plain = guarded(covering, report.seconds_left / 3)
    report.result["plain"] = {"status": plain.status, "why": plain.why, "seconds": round(plain.seconds, 1)}
    report.save()
    if plain.status != "done":
        raise RuntimeError(f"the run fails without a tool: {plain.why}\n{plain.output[-TAIL:]}")
    tools: dict[str, Any] = report.result.setdefault("tools", {})
    for number, tool in enumerate(TOOLS):
        if program is None:
            text = (SAMPLES / f"{tool}.txt").read_text(encoding="utf-8")
            tools[tool] = {"status": "done", **summary(text)}
        else:
            command = [program, "--tool", tool, *OPTIONS, *covering]
            outcome = guarded(command, (report.seconds_left - 2.0) / (len(TOOLS) - number))
            tools[tool] = judged(outcome.status, outcome.why, outcome.output) | {"seconds": round(outcome.seconds, 1)}
        report.save()
    if failed := [f"{tool}: {one['why']}" for tool, one in tools.items() if one["status"] != "done"]:
        raise RuntimeError("; ".join(failed))


def judged(status: str, why: str, output: str) -> dict[str, Any]:
    """What came of a tool: its summary where it got so far, else what kept it from that."""
    found = summary(output)
    # A summary without errors is one of nothing where the run did not come to its end: some releases end without having begun it.
    if found["errors"] is None or (found["errors"] == 0 and ENDED not in output):
        return {
            **found,
            "errors": None,
            "status": status if status != "done" else "failed",
            "why": why or ("no summary" if found["errors"] is None else "the run did not come to its end"),
            "output": output[-TAIL:],
        }
    # The exit status of a run in which errors were found is no failure of the tool.
    return {"status": "done", **found}


def summary(text: str) -> dict[str, Any]:
    """How many errors a tool has found, ``None`` without a summary, and the first lines that tell of them."""
    counts = [
        int(one)
        for pattern in (r"ERROR SUMMARY: (\d+) error", r"RACECHECK SUMMARY: (\d+) hazard", r"LEAK SUMMARY: (\d+) ")
        for one in re.findall(pattern, text)
    ]
    lines = [line.removeprefix("=========").strip() for line in text.splitlines() if line.startswith("=========")]
    told = [line for line in lines if line and "SUMMARY" not in line and line != "COMPUTE-SANITIZER"]
    return {"errors": sum(counts) if counts else None, "told": told[:20]}
