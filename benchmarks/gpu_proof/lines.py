"""A pytest plugin that writes a line for each test as it ends. A report of all tests at the end would be lost with the process."""

from __future__ import annotations

import json
import os
from typing import Any

VARIABLE = "GPU_PROOF_LINES"
"""The environment variable that names the file."""

LONGEST = 600
"""Characters of what a test that failed says."""


def pytest_collection_finish(session: Any) -> None:
    """Say how many there are; of several processes each knows, and the one that runs no tests itself does not."""
    if session.items:
        _write({"collected": len(session.items)})


def pytest_collectreport(report: Any) -> None:
    """Say which file could not even be imported."""
    if report.failed and not os.environ.get("PYTEST_XDIST_WORKER"):
        _write({"uncollected": report.nodeid, "why": _why(report)})


def pytest_runtest_logreport(report: Any) -> None:
    """Say how a test ended; where several processes share the tests, the one that hears of all of them says it."""
    if os.environ.get("PYTEST_XDIST_WORKER") or (report.when != "call" and report.outcome == "passed"):
        return
    _write({"test": report.nodeid, "outcome": report.outcome, "why": _why(report)})


def _why(report: Any) -> str:
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])[:LONGEST]
    if report.outcome == "passed":
        return ""
    # The lines that pytest marks with an E are what was raised.
    lines = report.longreprtext.splitlines()
    raised = [line[1:].strip() for line in lines if line.startswith("E ")]
    return "\n".join(raised or lines[-5:])[:LONGEST]


def _write(content: dict[str, Any]) -> None:
    # One write of one line, so that lines of several processes do not mix.
    with open(os.environ[VARIABLE], "ab", buffering=0) as file:
        file.write(json.dumps(content).encode() + b"\n")
