"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .clocks import Timed
from .goals import Goal
from .start import LIMIT
from .timing import median, quartiles, ratios


def case_row(label: str, timed: Mapping[str, Timed], torch: str) -> dict[str, Any]:
    """A contender's figures on the CPU; ratios are medians of the ratios round by round.

    Args:
        label: Whose.
        timed: All that were timed with it.
        torch: The way of PyTorch's that all are compared with.
    """
    one = timed[label]

    def times(other: str) -> float | None:
        return median(ratios(one, timed[other])) if other in timed else None

    plain, _, added = label.partition(", ")
    to_limit = ratios(one, timed[LIMIT])
    return {
        "label": label,
        "median": median(one.samples["wall"]),
        "quartiles": quartiles(one.samples["wall"]),
        "to_limit": median(to_limit),
        "to_limit_quartiles": quartiles(to_limit),
        "to_plain": times(plain) if added else None,
        "to_torch": times(torch),
        "rounds": len(one.samples["wall"]),
        "steps_a_sample": one.count,
    }


def case_table(result: dict[str, Any]) -> str:
    """A case as text."""
    what = f"{result['tensors']:,} tensor{'s' if result['tensors'] > 1 else ''}, {result['elements']:,} elements of {result['format']}"
    if result["updated"] != result["elements"]:
        what += f", of which {result['updated']:,} change"
    if result["gradients"] == "new":
        what += ", torch tensors and new gradients each step for all"
    lines = [
        f"{result['name']}: {what}, {result['bytes'] / 1e6:,.3g} MB a step",
        f"  {'':48}{'median':>12}  {'quartiles':^21}{'GB/s':>7}{'x limit':>10}{'x plain':>10}{'x torch':>10}",
    ]
    for row in result["rows"]:
        low, high = (time_text(value) for value in row["quartiles"])
        rate = result["bytes"] / row["median"] / 1e9
        # PyTorch's bfloat16 moves half the bytes, and a plain step others than one that does more: a rate in these would say nothing.
        other_bytes = result["format"] == "bfloat16" and row["label"].startswith("torch")
        if result["variant"] != "plain":
            other_bytes = "," not in row["label"] and row["label"] != LIMIT
        told = "-" if other_bytes else f"{rate:.1f}"
        plain, torch = ("-" if row[key] is None else f"{row[key]:.3g}" for key in ("to_plain", "to_torch"))
        lines.append(
            f"  {row['label']:48}{time_text(row['median']):>12}  {low:>9} - {high:<9}{told:>7}"
            f"{row['to_limit']:>10.3g}{plain:>10}{torch:>10}"
        )
    lines.append(f"  (x plain: without what follows the comma; x torch: {result['torch']})")
    if result["format"] == "bfloat16":
        lines.append(
            "  (torch has no master weights: its bfloat16 Adam keeps and moves half the bytes, at bfloat16's precision)"
        )
    return "\n".join(lines)


def overhead_table(rows: Sequence[dict[str, Any]]) -> str:
    """The time outside the kernel as text."""
    counts = sorted({row["tensors"] for row in rows})
    medians = {(row["label"], row["tensors"]): row["median"] for row in rows}
    lines = [
        "step outside the kernel, against the number of tensors (PyTorch: whole step, tensors of 1 element)",
        f"  {'':48}" + "".join(f"{count:>12,}" for count in counts),
    ]
    for label in dict.fromkeys(row["label"] for row in rows):
        found = [medians.get((label, count)) for count in counts]
        lines.append(f"  {label:48}" + "".join(f"{'-' if one is None else time_text(one):>12}" for one in found))
    return "\n".join(lines)


def startup_table(figures: dict[str, Any]) -> str:
    """Import, first step and peak memory as text."""
    lines = ["in a new process"]
    for name in ("import", "import GpuAdam", "first step cold", "first step warm"):
        spoken = {"import": "import gpu_adam", "import GpuAdam": "from gpu_adam import GpuAdam"}.get(name, name)
        lines.append(f"  {spoken:48}{time_text(figures[name]):>12}")
    lines.append("memory that a step needs beside its arrays, of the parameter's size")
    for name, share in figures["peak"].items():
        lines.append(f"  {name:48}{'not told' if share is None else f'{share:.0%}':>12}")
    return "\n".join(lines)


def goals_table(goals: Sequence[Goal]) -> str:
    """Goals as text."""
    lines = ["goals"]
    width = max((len(goal.what) for goal in goals), default=0)
    for goal in goals:
        bound = f"{'<=' if goal.at_most else '>='} {goal.shown(goal.target)}"
        lines.append(f"  {goal.what:{width}}{goal.shown(goal.measured):>12}  {bound:>12}  {goal.verdict}")
    return "\n".join(lines)


def time_text(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}" if seconds * scale < 1000 else f"{seconds * scale:.0f} {unit}"
    return f"{seconds * 1e9:.0f} ns"
