"""The tests that need a GPU, several at once where they can be, followed one by one so that what ran is known however it ends."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_adam.engines.processors import usable_processors

from ..record import LeftOut, Report
from ..runner import TAIL, Outcome, guarded
from .lines import VARIABLE

DRY = ("tests/arrays/test_streams.py",)
"""Of which one is skipped without a GPU."""

WORKERS = 14
"""Processes, at most: each has a context on the GPU and compiles kernels on a core, of which some are left to the others."""

SHARE = 0.75
"""Of the time, for the tests that several processes share; those that must have the GPU for themselves come after."""

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
    workers = 1
    if not report.dry_run and find_spec("xdist") is not None:
        workers = max(1, min(WORKERS, usable_processors().count - 2))
    several = ["-n", str(workers), "--maxschedchunk=4"] if workers > 1 else []
    if report.dry_run:
        stages = [([*DRY], 1.0)]
    else:
        stages = [(["-m", "gpu and not alone", *several, "--require-gpu", "tests"], SHARE)]
        stages += [(["-m", "gpu and alone", "--require-gpu", "tests"], 1.0)]
    outcomes = []
    report.result |= {"workers": workers, **summary([])}
    for chosen, share in stages:
        outcome, found = _pytest(chosen, share * (report.seconds_left - 2.0))
        outcomes.append(outcome)
        report.result |= merged(report.result, found)
        if outcome.status == "timed out" or found["of"] == 0:
            report.result |= {"why": outcome.why, "output": outcome.output[-TAIL:]}
        report.save()
    # pytest's own status is 1 where tests fail, which is a finding and no fault of this part.
    if any(outcome.status == "timed out" for outcome in outcomes):
        raise TimeoutError(f"{report.result['unfinished']} of {report.result['of']} tests had not run")
    if "output" in report.result:
        raise RuntimeError(f"pytest ran no test: {report.result['why']}")


def _pytest(chosen: Sequence[str], seconds: float) -> tuple[Outcome, dict[str, Any]]:
    """Run some tests."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.gpu_proof.lines", "-p", "no:cacheprovider"]
    # A file that needs what is not here must not keep the others from running.
    command += ["--continue-on-collection-errors", *chosen]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines"
        outcome = guarded(command, seconds, {VARIABLE: str(path), "OMP_NUM_THREADS": "1"})
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return outcome, summary(parsed(lines))


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two summaries as one. A file that cannot be imported is told by both, and counts once."""
    again = len(one["uncollected"].keys() & other["uncollected"].keys())
    found = {name: one[name] + other[name] for name in ("passed", "failed", "skipped", "of", "unfinished")}
    found |= {"failed": found["failed"] - again, "of": found["of"] - again}
    skips = Counter(one["skips"]) + Counter(other["skips"])
    both = {name: {**one[name], **other[name]} for name in ("failures", "uncollected")}
    return {**found, **both, "skips": dict(skips.most_common(20))}


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
    uncollected: dict[str, str] = {}
    collected = 0
    for one in found:
        if "collected" in one:
            collected = one["collected"]
            continue
        if "uncollected" in one:
            uncollected[one["uncollected"]] = one["why"]
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
        "failed": counts["failed"] + len(uncollected),
        "skipped": counts["skipped"],
        "of": collected + len(uncollected),
        "unfinished": collected - len(outcomes),
        "uncollected": uncollected,
        "failures": dict(list(failures.items())[:SHOWN]),
        "skips": dict(skips.most_common(20)),
    }
