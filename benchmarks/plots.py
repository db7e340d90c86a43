"""Plots of the benchmarks: on the CPU times by size, by list and by number of tensors; on a GPU bandwidth, and ratios."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .start import LIMIT

# ---- On the CPU -----------------------------------------------------------------------------------------------------------------------

_GREY, _BLUE, _LIGHT_BLUE = "#666666", "#1f5fbf", "#7fb0ef"
_GREEN, _LIGHT_GREEN = "#2f9e44", "#8ce99a"
_ADDED, _PAIR = "with the addition", "PyTorch's counterpart"
_OTHERS = {
    _PAIR: "#d9480f",
    "torch fused": "#d9480f",
    "torch foreach": "#f59f00",
    "torch loop": "#c2a25a",
    "NumPy": "#8a6fb0",
}


def save_cpu(results: dict[str, Any], path: Path) -> list[Path]:
    """Draw the CPU's results; return what was written, which is nothing without matplotlib."""
    if find_spec("matplotlib") is None:
        print("matplotlib is not installed, so nothing is plotted: pip install gpu_adam[bench]", file=sys.stderr)
        return []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 11), layout="constrained")
    (sizes, bars), (counts, more) = figure.subplots(2, 2)
    # Adam's alone: the others would each bring labels of their own, and stand in the tables.
    plain = [case for case in results["cases"] if case["variant"] == "plain" and case["optimizer"] == "adam"]
    _plot_sizes(sizes, [case for case in plain if case["kind"] == "single" and case["format"] == "float32"])
    _plot_bars(bars, [case for case in plain if case["kind"] == "list"], "lists of tensors")
    _plot_counts(counts, results["overhead"])
    _plot_bars(more, [_by_role(case) for case in results["cases"] if case["variant"] != "plain"], "steps that do more")
    where = results["machine"]
    figure.suptitle(f"{where.get('gpu', where['cpu'])}, {where['cores']} cores; medians", fontsize=10)
    figure.savefig(path, dpi=110)
    return [path]


def _colour(label: str) -> str:
    if label.startswith(LIMIT):
        return _GREY
    if label.startswith("GpuAdam"):
        dark, light = (_GREEN, _LIGHT_GREEN) if label.endswith(_ADDED) else (_BLUE, _LIGHT_BLUE)
        return dark if "packed" in label else light
    return next((colour for name, colour in _OTHERS.items() if label.startswith(name)), _GREEN)


def _by_role(case: dict[str, Any]) -> dict[str, Any]:
    """A case with labels that are the same whatever is added to the step."""
    rows = {}
    for row in case["rows"]:
        plain, _, added = row["label"].partition(", ")
        role = _PAIR if row["label"] == case["torch"] else f"{plain}, {_ADDED}" if added else plain
        rows.setdefault(role, {**row, "label": role})
    return {**case, "rows": list(rows.values())}


def _labels(cases: Sequence[dict[str, Any]]) -> list[str]:
    found = dict.fromkeys(row["label"] for case in cases for row in case["rows"])
    return [label for label in found if "passed" not in label]


def _legend(axes: Any) -> None:
    axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _plot_sizes(axes: Any, cases: Sequence[dict[str, Any]]) -> None:
    for label in _labels(cases):
        points = [(case["elements"], row["median"]) for case in cases for row in case["rows"] if row["label"] == label]
        style = {"linestyle": "--", "marker": ""} if label == LIMIT else {"linestyle": "-", "marker": "."}
        axes.plot(*zip(*points, strict=True), label=label, color=_colour(label), **style)
    if cases:
        axes.set(xscale="log", yscale="log")
        _legend(axes)
    axes.set(title="one float32 tensor", xlabel="elements", ylabel="seconds a step")
    axes.grid(alpha=0.3)


def _plot_bars(axes: Any, cases: Sequence[dict[str, Any]], title: str) -> None:
    labels = _labels(cases)
    height = 0.85 / max(1, len(labels))
    for k, label in enumerate(labels):
        places, values = [], []
        for place, case in enumerate(cases):
            for row in case["rows"]:
                if row["label"] == label:
                    places.append(place + k * height)
                    values.append(row["median"])
        axes.barh(places, values, height, label=label, color=_colour(label))
    axes.set_yticks([place + 0.4 for place in range(len(cases))], [case["name"] for case in cases], fontsize=8)
    axes.invert_yaxis()
    if cases:
        axes.set_xscale("log")
        _legend(axes)
    axes.set(title=title, xlabel="seconds a step")
    axes.grid(alpha=0.3, axis="x")


def _plot_counts(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    for label in dict.fromkeys(row["label"] for row in rows):
        points = [(row["tensors"], row["median"]) for row in rows if row["label"] == label]
        style = {"linestyle": "--" if "NumPy" not in label and "GpuAdam" in label else "-", "marker": "."}
        if "grads" in label:
            style["linestyle"] = ":"
        axes.plot(*zip(*points, strict=True), label=label, color=_colour(label), **style)
    if rows:
        axes.set(xscale="log", yscale="log")
        _legend(axes)
    axes.set(title="a step outside the kernel", xlabel="tensors", ylabel="seconds a step")
    axes.grid(alpha=0.3)


# ---- On a GPU -------------------------------------------------------------------------------------------------------------------------

MOST_BARS = 8
"""Contenders of a case that are drawn."""


def save_gpu(results: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Draw the bandwidth over size, and how many times as long others take on a GPU; none without matplotlib or the benchmark's figures."""
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
