"""The tests that need a GPU, several at once, followed test by test so that what ran is known however it ends."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .lines import VARIABLE
from .record import LeftOut, Report
from .runner import TAIL, guarded

DRY = ("tests/test_streams.py",)
"""Of which one is skipped without a GPU."""

WORKERS = 8
"""Processes, at most: each has a context on the GPU and compiles kernels on a core."""

SHOWN = 60
"""Failures that are told, each with its first lines."""


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Run them.

    Raises:
        LeftOut: Without pytest or what the tests import.
    """
    missing = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    if missing:
        raise LeftOut(f"not installed: {', '.join(missing)}")
    chosen = [*DRY] if report.dry_run else ["-m", "gpu", "--require-gpu", "tests"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.gpu_proof.lines", "-p", "no:cacheprovider"]
    # A file that needs what is not here must not keep the others from running.
    command += ["--continue-on-collection-errors"]
    workers = 1 if report.dry_run else max(1, min(WORKERS, (os.cpu_count() or 2) // 2))
    if find_spec("xdist") is not None and workers > 1:
        command += ["-n", str(workers), "--maxschedchunk=4"]
    else:
        workers = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines"
        environment = {VARIABLE: str(path), "OMP_NUM_THREADS": "1"}
        outcome = guarded([*command, *chosen], report.seconds_left - 2.0, environment)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    report.result |= {"workers": workers, "pytest": outcome.status, **summary(parsed(lines))}
    if outcome.status == "timed out" or report.result["of"] == 0:
        report.result |= {"why": outcome.why, "output": outcome.output[-TAIL:]}
    report.save()
    # pytest's own status is 1 where tests fail, which is a finding and no fault of this part.
    if outcome.status == "timed out":
        raise TimeoutError(f"{report.result['unfinished']} of {report.result['of']} tests had not run")
    if report.result["of"] == 0:
        raise RuntimeError(f"pytest ran no test: {outcome.why}")


def parsed(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What the lines say; one that was cut off is left out."""
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def summary(found: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """How many passed, failed and were skipped, and of how many; which failed and why; why those were skipped that were.

    The tests of a file that cannot be imported count as one that failed.
    """
    outcomes: dict[str, str] = {}
    failures: dict[str, str] = {}
    skips: Counter[str] = Counter()
    collected, uncollected = 0, 0
    for one in found:
        if "collected" in one:
            collected = one["collected"]
            continue
        if "uncollected" in one:
            uncollected += one["uncollected"] not in failures
            failures[one["uncollected"]] = one["why"]
            continue
        test, outcome = one["test"], one["outcome"]
        # A test that failed may still be reported as passed by its teardown, not the other way round.
        if outcomes.get(test) != "failed":
            outcomes[test] = outcome
        if outcome == "failed":
            failures.setdefault(test, one["why"])
        if outcome == "skipped":
            skips[one["why"]] += 1
    counts = Counter(outcomes.values())
    collected = max(collected, len(outcomes))
    return {
        "passed": counts["passed"],
        "failed": counts["failed"] + uncollected,
        "skipped": counts["skipped"],
        "of": collected + uncollected,
        "unfinished": collected - len(outcomes),
        "failures": dict(list(failures.items())[:SHOWN]),
        "skips": dict(skips.most_common(20)),
    }
