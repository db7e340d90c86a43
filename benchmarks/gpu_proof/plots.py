"""Plots of the benchmark: bandwidth over size, and how many times as long the others take."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..start import LIMIT

MOST_BARS = 8
"""Contenders of a case that are drawn."""


def save(results: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write them; none without matplotlib or the benchmark's figures."""
    cases = results["parts"].get("bench", {}).get("result", {}).get("cases", [])
    if not cases or find_spec("matplotlib") is None:
        return []
    title = "dry run: nothing was measured on a GPU" if results["dry_run"] else results["machine"].get("gpu", "")
    written = []
    for kind, draw in (("bandwidth", _bandwidth), ("ratios", _ratios)):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 6), layout="constrained")
        draw(figure.subplots(), cases)
        figure.suptitle(title, fontsize=10)
        path = folder / f"{name}-{kind}.png"
        figure.savefig(path, dpi=110)
        written.append(path)
    return written


def _bandwidth(axes: Any, cases: list[dict[str, Any]]) -> None:
    points: dict[str, list[tuple[int, float]]] = {}
    for case in cases:
        if case["kind"] == "single" and case["format"] == "float32" and case["variant"] == "plain":
            for row in case["rows"]:
                if row.get("bytes_per_second"):
                    points.setdefault(row["label"], []).append((case["elements"], row["bytes_per_second"] / 1e9))
    for label, line in points.items():
        is_ours = label.startswith("GpuAdam")
        style = "--" if label == LIMIT else "-"
        axes.plot(*zip(*sorted(line), strict=True), style, marker=".", label=label, linewidth=2 if is_ours else 1)
    axes.set(
        xscale="log",
        xlabel="elements",
        ylabel="GB/s of the bytes that a step has to move",
        title="one float32 tensor, device time",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _ratios(axes: Any, cases: list[dict[str, Any]]) -> None:
    names, places = [], []
    for case in cases:
        timed = [row for row in case["rows"] if row["wall"] and row["label"] != LIMIT]
        ours = [row for row in timed if row["label"].startswith("GpuAdam") and "packed" in row["label"]]
        # Of a step that does more, the one that does it.
        first = next((row for row in ours if case["variant"] == "plain" or "," in row["label"]), None)
        if first is None:
            continue
        place = len(names)
        names.append(case["name"])
        others = [row for row in timed if not row["label"].startswith("GpuAdam")][:MOST_BARS]
        for k, row in enumerate(others):
            places.append(
                (
                    place + 0.8 * k / max(1, len(others)),
                    row["wall"] / first["wall"],
                    row["label"],
                    0.8 / max(1, len(others)),
                )
            )
    colours: dict[str, str] = {}
    for at, ratio, label, height in places:
        is_new = label not in colours
        colours.setdefault(label, f"C{len(colours)}")
        axes.barh(at, ratio, height, align="edge", color=colours[label], label=label if is_new else None)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks([k + 0.4 for k in range(len(names))], names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="wall time over that of GpuAdam packed", title="how many times as long the others take")
    if places:
        axes.set_xscale("log")
        axes.legend(fontsize=7)
    axes.grid(alpha=0.3, axis="x")
