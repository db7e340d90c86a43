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
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    title = "dry run: nothing was measured on a GPU" if results["dry_run"] else results["machine"].get("gpu", "")
    written = []
    for kind, draw, height in (("bandwidth", _bandwidth, 6.0), ("ratios", _ratios, 2.0 + 0.6 * len(cases))):
        figure = Figure(figsize=(11, height), layout="constrained")
        axes = figure.subplots()
        axes.set_prop_cycle(color=colormaps["tab20"].colors)
        draw(axes, cases)
        figure.suptitle(title, fontsize=10)
        figure.legend(loc="outside right upper", fontsize=7)
        path = folder / f"{name}-{kind}.png"
        figure.savefig(path, dpi=110)
        written.append(path)
    return written


def _is_ours(label: str) -> bool:
    return label.startswith("GpuAdam")


def _bandwidth(axes: Any, cases: list[dict[str, Any]]) -> None:
    points: dict[str, list[tuple[int, float]]] = {}
    for case in cases:
        if case["kind"] == "single" and case["format"] == "float32" and case["variant"] == "plain":
            for row in case["rows"]:
                if row.get("bytes_per_second"):
                    points.setdefault(row["label"], []).append((case["elements"], row["bytes_per_second"] / 1e9))
    for label, line in points.items():
        style = "--" if label == LIMIT else "-"
        spoken, width = "a plain copy" if label == LIMIT else label, 2 if _is_ours(label) else 1
        axes.plot(*zip(*sorted(line), strict=True), style, marker=".", label=spoken, linewidth=width)
    axes.set_xscale("log", base=2)
    axes.set(
        xlabel="elements",
        ylabel="GB/s of the bytes that a step has to move",
        title="one float32 tensor, device time",
    )
    axes.grid(alpha=0.3)


def _ratios(axes: Any, cases: list[dict[str, Any]]) -> None:
    colours: dict[str, Any] = {}
    names: list[str] = []
    for case in sorted(
        cases, key=lambda case: (case["variant"] != "plain", case["kind"], case["format"], case["elements"])
    ):
        timed = [row for row in case["rows"] if row["wall"] and row["label"] != LIMIT]
        ours = [row for row in timed if _is_ours(row["label"]) and "packed" in row["label"]]
        # Of a step that does more, the one that does it.
        first = next((row for row in ours if case["variant"] == "plain" or "," in row["label"]), None)
        others = [row for row in timed if not _is_ours(row["label"])][:MOST_BARS]
        if first is None or not others:
            continue
        height = 0.8 / len(others)
        for k, row in enumerate(others):
            label = row["label"]
            # From 1 on, where a contender is as fast: to the left those that are faster.
            at, length = len(names) + k * height, row["wall"] / first["wall"] - 1
            new = {"color": colours[label]} if label in colours else {"label": label}
            (bar,) = axes.barh(at, length, height, left=1.0, align="edge", **new)
            colours[label] = bar.get_facecolor()
        names.append(case["name"])
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks([k + 0.4 for k in range(len(names))], names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set(xlabel="wall time over that of GpuAdam packed", title="how many times as long the others take")
    axes.grid(alpha=0.3, axis="x")
