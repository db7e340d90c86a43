"""Results as a table, as JSON and as a plot."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gpu_adam import __version__
from gpu_adam.doctor import find_machine, find_packages

from .cases import Case
from .contenders import counterpart
from .goals import Goal
from .start import LIMIT
from .timing import Samples, quartiles


def case_result(case: Case, samples: dict[str, Samples]) -> dict[str, Any]:
    """One case's figures; ratios are medians of the ratios round by round."""

    def times(sample: Samples, other: str) -> float | None:
        return float(np.median(sample.ratios(samples[other]))) if other in samples else None

    rows, torch = [], counterpart(case)
    for label, sample in samples.items():
        low, high = sample.quartiles
        plain, _, added = label.partition(", ")
        ratios = sample.ratios(samples[LIMIT])
        rows.append(
            {
                "label": label,
                "median": sample.median,
                "quartiles": [low, high],
                "to_limit": float(np.median(ratios)),
                "to_limit_quartiles": list(quartiles(ratios)),
                "to_plain": times(sample, plain) if added else None,
                "to_torch": times(sample, torch),
                "rounds": len(sample.seconds),
                "steps_a_sample": sample.inner,
            }
        )
    return {
        "name": case.name,
        "kind": case.kind,
        "format": case.format,
        "variant": case.variant,
        "optimizer": case.optimizer,
        "torch": torch,
        "tensors": len(case.shapes),
        "elements": case.elements,
        "updated": case.updated,
        "bytes": case.ideal_bytes,
        "rows": rows,
    }


def case_table(result: dict[str, Any]) -> str:
    """A case as text."""
    what = f"{result['tensors']:,} tensor{'s' if result['tensors'] > 1 else ''}, {result['elements']:,} elements of {result['format']}"
    if result["updated"] != result["elements"]:
        what += f", of which {result['updated']:,} change"
    lines = [
        f"{result['name']}: {what}, {result['bytes'] / 1e6:,.3g} MB a step",
        f"  {'':44}{'median':>12}  {'quartiles':^21}{'GB/s':>7}{'x limit':>10}{'x plain':>10}{'x torch':>10}",
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
            f"  {row['label']:44}{time_text(row['median']):>12}  {low:>9} - {high:<9}{told:>7}"
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


def machine(device: str) -> dict[str, Any]:
    """Where it ran, on what, and how busy that was."""
    here = find_machine()
    found: dict[str, Any] = {"cpu": here.cpu, "cores": here.processors, "system": here.system}
    if device == "cuda":
        found |= {"gpu": here.gpus[0], "driver": here.driver}
    if hasattr(os, "getloadavg"):
        found["load_at_start"] = round(os.getloadavg()[0], 2)
    return found


def versions() -> dict[str, str]:
    """Of all that takes part and is installed."""
    packages = {name: version for name, version in find_packages().items() if version is not None}
    return {"python": platform.python_version(), "gpu_adam": __version__, **packages}


def save(results: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write ``name.json``, and ``name.png`` where matplotlib is installed; return what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{name}.json"]
    written[0].write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if find_spec("matplotlib") is None:
        print("matplotlib is not installed, so nothing is plotted: pip install gpu_adam[bench]", file=sys.stderr)
        return written
    written.append(folder / f"{name}.png")
    _plot(results, written[1])
    return written


# The plot.

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


def _colour(label: str) -> str:
    if label.startswith(LIMIT):
        return _GREY
    if label.startswith("GpuAdam"):
        dark, light = (_GREEN, _LIGHT_GREEN) if label.endswith(_ADDED) else (_BLUE, _LIGHT_BLUE)
        return dark if "packed" in label else light
    return next((colour for name, colour in _OTHERS.items() if label.startswith(name)), _GREEN)


def _plot(results: dict[str, Any], path: Path) -> None:
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
