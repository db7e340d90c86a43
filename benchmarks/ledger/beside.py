"""Predictions beside what was measured on GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..record import results_in
from .machines import MACHINES
from .tables import Row, label, table

RESULTS = Path(__file__).parent.parent / "results"

SHORTEST = 20e-6
"""Seconds below which a prediction is not compared: the launch, which is not in it, takes 2 to 4 µs."""

_OF_MEASUREMENTS = """Measured between events around one step that is this kernel alone, with a cold cache, or by Nsight Compute.
{short} kernels that are predicted to take less than {shortest:.0f} µs are left out: the launch, 2 to 4 µs, is in no prediction.
"""


def measurements() -> list[tuple[str, Mapping[str, Any]]]:
    """Results from GPUs, by the name of their file."""
    return [(path.name, results) for path, results in results_in(RESULTS) if not results["dry_run"]]


def _machine_of(result: Mapping[str, Any]) -> str | None:
    """Whose predictions a result is to be compared with; a card that shares its name with a larger one's is another machine."""
    told = result["machine"]
    for machine in MACHINES:
        same = told.get("multiprocessors", machine.processors) == machine.processors
        if same and re.search(rf"\b{machine.name}\b", told["gpu"]):
            return machine.name
    return None


def beside(rows: Iterable[Row], measured: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    if not measured:
        return "No GPU has been at hand yet: there is no `benchmarks/results/gpu-proof-*.json`.\n"
    predictions = {(row["kernel"], name): one for row in rows for name, one in row["predictions"].items()}
    lines, short = [], 0
    for file, result in measured:
        machine = _machine_of(result)
        for kernel in result["kernels"]:
            seconds, cells = kernel["seconds"], ["not predicted", ""]
            if one := predictions.get((kernel["name"], machine or "")):
                expected = one["nanoseconds"] * kernel["elements"] / 1e9
                if expected < SHORTEST:
                    short += 1
                    continue
                cells = [f"{expected * 1e6:,.1f}", f"{seconds / expected:.2f}"]
            what = ", ".join(filter(None, (label(kernel["name"]), kernel["case"], kernel.get("label"), kernel["how"])))
            speed = f"{kernel['bytes'] / seconds / 1e9:,.0f}"
            lines.append([what, f"{kernel['elements']:,}", cells[0], f"{seconds * 1e6:,.1f}", cells[1], speed, file])
    listed = table(["", "elements", "predicted, µs", "measured, µs", "ratio", "GB/s", "file"], lines)
    return listed + _OF_MEASUREMENTS.format(short=short, shortest=SHORTEST * 1e6)
