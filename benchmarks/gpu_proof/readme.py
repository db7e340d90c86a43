"""README's table of GPU figures, made from the newest results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..record import results_in
from ..report import time_text
from ..variants import ADDED, PAIRS

BEGIN = "<!-- gpu figures: python -m benchmarks --device cuda --readme -->"
END = "<!-- end of gpu figures -->"
NONE = "No figure comes from a GPU."

ROWS = (
    ("single-256Mi", "one tensor of 256 Mi float32"),
    ("single-16Mi", "one tensor of 16 Mi float32"),
    ("gpt2-124m", "GPT-2 124M, 148 tensors"),
    ("resnet50", "ResNet-50, 161 tensors"),
    ("3000x3500", "3,000 tensors of 3,500"),
    ("10000x100", "10,000 tensors of 100"),
    ("single-64Mi-bfloat16", "64 Mi bfloat16 with float32 master weights"),
    ("clip-single-64Mi", "clipping, 64 Mi"),
    ("clip-gpt2-124m", "clipping, GPT-2"),
    ("scale-single-16Mi", "a loss scale, and skipping, 16 Mi"),
)


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest results in a folder that come from a GPU and have figures of the benchmark."""
    found = [
        (path, results)
        for path, results in results_in(folder)
        if not results.get("dry_run", True) and results["parts"].get("bench", {}).get("result", {}).get("cases")
    ]
    return max(found, key=lambda one: one[1]["date"], default=None)


def block(folder: Path) -> str:
    """What stands between the two comments."""
    found = newest(folder)
    if found is None:
        return NONE
    path, results = found
    machine, versions = results["machine"], results["versions"]
    named = [
        f"{name} {versions[name]}" for name in ("torch", "cupy-cuda13x", "cupy-cuda12x", "jax") if name in versions
    ]
    where = f"On an {machine['gpu']}, driver {machine.get('driver')}, {', '.join(named)} (`benchmarks/results/{path.name}`, "
    where += f"{results['date'][:10]}), packed, medians:"
    known = [goal["reached"] for goal in results["goals"] if goal["reached"] is not None]
    count, reached = len(results["goals"]), sum(known)
    told = (
        f"Of {count} goals {reached} are reached, {len(known) - reached} missed and {count - len(known)} not measured"
    )
    lines = [
        where,
        "",
        "| a step of | GpuAdam, device | of the copy's bandwidth | GpuAdam, wall | times as fast as torch fused |",
        "| --- | --- | --- | --- | --- |",
        *_rows(results["parts"]["bench"]["result"]["cases"]),
        "",
        f"{told}; `benchmarks/results/{path.with_suffix('.md').name}` has all of them.",
    ]
    return "\n".join(lines)


def _rows(cases: Sequence[dict[str, Any]]) -> list[str]:
    by_name, lines = {case["name"]: case for case in cases}, []
    for name, spoken in ROWS:
        if name not in by_name:
            continue
        case = by_name[name]
        rows = {row["label"]: row for row in case["rows"]}
        ending = f"packed, {ADDED[case['variant']]}" if case["variant"] != "plain" else "packed"
        ours = next(
            (row for label, row in rows.items() if label.startswith("GpuAdam") and label.endswith(ending)), None
        )
        if ours is None:
            continue
        torch = rows.get(PAIRS[case["variant"]])
        share = f"{1 / ours['to_limit']:.0%}" if ours.get("to_limit") else "-"
        factor = "-" if torch is None else f"{torch['wall'] / ours['wall']:.3g}"
        if torch is not None and case["format"] == "bfloat16":
            factor += " (torch keeps no master weights and moves half the bytes)"
        if case["variant"] != "plain":
            factor += f" ({PAIRS[case['variant']]})"
        device = "-" if ours["device"] is None else time_text(ours["device"])
        lines.append(f"| {spoken} | {device} | {share} | {time_text(ours['wall'])} | {factor} |")
    return lines
