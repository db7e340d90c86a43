"""The benchmark of training loops: the cases, what the host does in a step, and FSDP2's shards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import report
from ..cases import Case
from ..cpu import Keep, begun, measure_cases
from ..libraries import has_torch
from ..record import write
from . import host, shards
from .goals import training_goals
from .page import page

NAME, BESIDE = "training", (".md",)
"""What the files of results are called, and how those end that lie beside the figures."""

MOST_ROUNDS = 15
"""Of the shards: each process has one core or so, and waits for the other."""


def run(cases: Sequence[Case], repeats: int, budget: float, *, quick: bool, keep: Keep) -> dict[str, Any]:
    """Measure, printing as it goes, and return all figures; without PyTorch there are none.

    Args:
        cases: The cases.
        repeats: Rounds at most.
        budget: Seconds for the rounds of a case.
        quick: Whether the other measurements are made small, too.
        keep: Is told of the results after each case.

    Raises:
        WrongResult: If a contender does not compute what it should.
    """
    if not has_torch():
        print("no training loop is measured: PyTorch is not installed", file=sys.stderr)
        return {}
    results = begun()
    measure_cases(results, cases, repeats, budget, keep)
    results["host"] = host.measure(host.QUICK_COUNTS if quick else host.COUNTS, repeats, budget / 2)
    print("\n" + host.table(results["host"]), flush=True)
    keep(results)
    results["shards"] = shards.measure(min(repeats, MOST_ROUNDS), quick=quick)
    print("\n" + shards.table(results["shards"]), flush=True)
    goals = training_goals(results)
    results["goals"] = [goal.as_dict() for goal in goals]
    print("\n" + report.goals_table(goals) + "\n")
    return results


def save(results: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write ``name.json`` and ``name.md``; return what was written."""
    if not results:
        return []
    written = [folder / f"{name}.json", folder / f"{name}.md"]
    write(written[0], results)
    written[1].write_text(page(results), encoding="utf-8")
    return written
