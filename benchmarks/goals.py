"""What must be reached on the CPU, and whether it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .overhead import PACKED
from .variants import ADDED, PAIRS

WAYS = ("GpuAdam cpu in place", "GpuAdam cpu packed")
OUTSIDE = 30e-6
"""Seconds that a packed step may take outside the kernel."""

# "Does not grow" with a margin for noise, a thousandth of the growth that would follow the number of tensors.
GROWTH = 1.5

AVERAGING = 36 / 28 * 1.05
"""What an average may make of a step's time: as much as of its bytes, and a twentieth."""


@dataclass(frozen=True)
class Goal:
    """One goal.

    Attributes:
        what: In words.
        measured: The figure; ``None`` where it was not measured.
        target: What it may be at most, or at least.
        at_most: Which of the two.
        unit: How the figure is printed: ``"x"`` for a ratio, ``"s"``, ``"us"``, ``"%"``, or ``"n"`` for a number of things.
    """

    what: str
    measured: float | None
    target: float
    at_most: bool
    unit: str

    @property
    def reached(self) -> bool | None:
        """Whether it is; ``None`` where that is not known."""
        if self.measured is None:
            return None
        return self.measured <= self.target if self.at_most else self.measured >= self.target

    @property
    def verdict(self) -> str:
        """Whether it is reached, or by how much it is missed."""
        if self.measured is None:
            return "not measured"
        if self.reached:
            return "yes"
        off = abs(self.measured - self.target)
        return f"NO, by {off / self.target:.1%}" if self.target else f"NO, by {off:,g}"

    def shown(self, value: float | None) -> str:
        """A figure with its unit."""
        if value is None:
            return "-"
        if self.unit == "n":
            return f"{value:,g}"
        scale, digits = {"x": (1, 2), "s": (1, 3), "us": (1e6, 1), "%": (100, 1)}[self.unit]
        return f"{value * scale:.{digits}f} {self.unit}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "reached": self.reached}


def goals(results: dict[str, Any]) -> list[Goal]:
    """The goals that the results have figures for."""
    cases = {case["name"]: {row["label"]: row for row in case["rows"]} for case in results["cases"]}
    found = [*_cases(cases), *_variants(cases), *_overhead(results["overhead"])]
    if results["startup"] is not None:
        found += _startup(results["startup"])
    return found


def _cases(cases: dict[str, Any]) -> Iterator[Goal]:
    for way in WAYS:
        if "single-16Mi" in cases:
            rows = cases["single-16Mi"]
            yield Goal(
                f"16 Mi elements, {way}: time over the same-traffic loop", rows[way]["to_limit"], 1.05, True, "x"
            )
        for name, spoken, target in (
            ("single-16Mi", "16 Mi elements", 1.0),
            ("thousand", "1,000 tensors of 1,000", 20.0),
            ("gpt2-124m", "GPT-2 124M", 1.0),
            ("resnet50", "ResNet-50", 1.0),
        ):
            if "torch fused" in cases.get(name, {}):
                faster = 1 / cases[name][way]["to_torch"]
                yield Goal(f"{spoken}, {way}: times faster than torch fused", faster, target, False, "x")


def _variants(cases: dict[str, Any]) -> Iterator[Goal]:
    for way in WAYS:
        clipping, averaging = f"{way}, {ADDED['clip']}", f"{way}, {ADDED['average']}"
        if "clip-single-16Mi" in cases:
            row = cases["clip-single-16Mi"][clipping]
            yield Goal(f"16 Mi elements, {clipping}: time over the plain step", row["to_plain"], 1.25, True, "x")
        for name, spoken, target in (
            ("clip-single-16Mi", "16 Mi elements", 1.5),
            ("clip-thousand", "1,000 tensors of 1,000", 20.0),
        ):
            if PAIRS["clip"] in cases.get(name, {}):
                faster = 1 / cases[name][clipping]["to_torch"]
                yield Goal(f"{spoken}, {clipping}: times faster than torch's pair", faster, target, False, "x")
        if "average-single-16Mi" in cases:
            row = cases["average-single-16Mi"][averaging]
            yield Goal(f"16 Mi elements, {averaging}: time over the plain step", row["to_plain"], AVERAGING, True, "x")
    if "rows-100000x256" in cases:
        row = cases["rows-100000x256"][f"{WAYS[0]}, {ADDED['rows']}"]
        yield Goal("1,000 of 100,000 rows of 256: time over the dense step", row["to_plain"], 0.03, True, "%")


def _overhead(rows: Sequence[dict[str, Any]]) -> Iterator[Goal]:
    for label in PACKED:
        medians = {row["tensors"]: row["median"] for row in rows if row["label"] == label}
        if medians:
            most = max(medians)
            yield Goal(f"{label}: outside the kernel, {most:,} tensors", medians[most], OUTSIDE, True, "us")
            growth = medians[most] / medians[min(medians)]
            yield Goal(f"{label}: outside the kernel, {most:,} tensors over 1", growth, GROWTH, True, "x")


def _startup(figures: dict[str, Any]) -> Iterator[Goal]:
    yield Goal("import gpu_adam (and GpuAdam) over import numpy", figures["import GpuAdam"], 0.2, True, "s")
    yield Goal("first step in a new process, caches warm", figures["first step warm"], 1.5, True, "s")
    for way in ("GpuAdam in place", "GpuAdam packed"):
        if figures["peak"][way] is not None:
            # A parameter-sized temporary would be 100 %.
            yield Goal(f"peak memory of a step, {way}: share of the parameter", figures["peak"][way], 0.05, True, "%")
