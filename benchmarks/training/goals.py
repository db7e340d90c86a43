"""What must be reached in a training loop, and whether it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..goals import Goal
from ..variants import ADDED
from .cases import TEN_THOUSAND, THOUSAND, some_absent
from .contenders import ADAMW, BOUND, GPU_ADAM, IN_PLACE

FASTER = (
    (THOUSAND.name, "1,000 tensors of 1,000", {IN_PLACE: 3.0, BOUND: 5.0}),
    (TEN_THOUSAND.name, "10,000 tensors of 100", {IN_PLACE: 4.0, BOUND: 8.0}),
)
"""How many times as fast as PyTorch's fused step."""

MOST_ADDED, MOST_ADDED_EACH = 10e-6, 0.15e-6
"""Seconds that a step of the class may take beyond `GpuAdam`'s, and that for each tensor."""

ABSENT = 1.3
"""What 1 % of absent gradients, others in each step, may make of a step's time."""


def training_goals(results: Mapping[str, Any]) -> list[Goal]:
    """Those that the results have figures for."""
    cases = {case["name"]: {row["label"]: row for row in case["rows"]} for case in results["cases"]}
    return [*_faster(cases), *_absent(cases), *_added(results["host"])]


def _faster(cases: Mapping[str, Any]) -> Iterator[Goal]:
    for name, spoken, targets in FASTER:
        for label, row in _rows(cases, name, targets):
            target = targets[label.partition(" ")[2]]
            yield Goal(f"{spoken}, {label}: times as fast as torch fused", 1 / row["to_torch"], target, False, "x")


def _absent(cases: Mapping[str, Any]) -> Iterator[Goal]:
    name = some_absent(THOUSAND, 10).name
    for label, row in _rows(cases, name, (f"{IN_PLACE}, {ADDED['absent']}",)):
        yield Goal(f"1 % of 1,000 gradients absent, {label}: time over a full step", row["to_plain"], ABSENT, True, "x")


def _rows(cases: Mapping[str, Any], name: str, ways: Sequence[str] | Mapping[str, float]) -> Iterator[tuple[str, Any]]:
    """Our rows of a case, by label."""
    rows = cases.get(name, {})
    for label in (f"{ours} {way}" for way in ways for ours in (GPU_ADAM, ADAMW)):
        if label in rows:
            yield label, rows[label]


def _added(rows: Sequence[Mapping[str, Any]]) -> Iterator[Goal]:
    for row in rows:
        if "added" in row:
            most = MOST_ADDED + MOST_ADDED_EACH * row["tensors"]
            what = f"{row['tensors']:,} tensors, {row['label']}: what it takes beyond {GPU_ADAM}"
            yield Goal(what, row["added"], most, True, "us")
