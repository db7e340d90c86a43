"""What must be reached, on the CPU and on a GPU, and whether it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .gpu_proof.sanitizers import TOOLS
from .markdown import table
from .overhead import PACKED
from .start import LIMIT
from .variants import ADDED, PAIRS


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


def goals_page(saved: Sequence[Mapping[str, Any]]) -> str:
    """A table in Markdown of goals as they are saved."""
    rows = []
    for one in saved:
        goal = Goal(**{name: value for name, value in one.items() if name != "reached"})
        bound = f"{'at most' if goal.at_most else 'at least'} {goal.shown(goal.target)}"
        rows.append((goal.what, bound, goal.shown(goal.measured), goal.verdict))
    return table(("goal", "asked", "measured", "reached"), rows)


# ---- On the CPU -----------------------------------------------------------------------------------------------------------------------

WAYS = ("GpuAdam cpu in place", "GpuAdam cpu packed")
OUTSIDE = 30e-6
"""Seconds that a packed step may take outside the kernel."""

# "Does not grow" with a margin for noise, a thousandth of the growth that would follow the number of tensors.
GROWTH = 1.5

AVERAGING = 36 / 28 * 1.05
"""What an average may make of a step's time: as much as of its bytes, and a twentieth."""


def cpu_goals(results: dict[str, Any]) -> list[Goal]:
    """Those that the results have figures for."""
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
            ("thousand", "1,000 NumPy arrays of 1,000", 20.0),
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
            ("clip-thousand", "1,000 NumPy arrays of 1,000", 20.0),
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


# ---- On a GPU: a row for each goal, also where nothing was measured --------------------------------------------------------------------

COPY_SHARE = 0.95
LISTS = (("gpt2-124m", "GPT-2 124M", 5.0), ("3000x3500", "3,000 tensors of 3,500", 20.0))
"""Lists of tensors, and how many times shorter than PyTorch's a step must be."""

CLIPPED = ("clip-single-64Mi", "clip-gpt2-124m", "clip-3000x3500")
CLIP_FACTOR = 1.5
HOST = 20e-6
REPLAY = 10e-6

TORCH = PAIRS["plain"]

Rows = Mapping[str, Mapping[str, Any]]
"""The contenders of a case, by label."""


def gpu_goals(results: dict[str, Any]) -> list[Goal]:
    """All goals; of a dry run none, since nothing of it is a claim."""
    if results["dry_run"]:
        return []
    parts = {name: part.get("result", {}) for name, part in results["parts"].items()}
    cases: dict[str, Rows] = {
        case["name"]: {row["label"]: row for row in case["rows"]} for case in parts.get("bench", {}).get("cases", [])
    }
    labels = (label for rows in cases.values() for label in rows)
    engine = next((label.split()[1] for label in labels if label.startswith("GpuAdam ")), "cupy")
    packed, in_place = f"GpuAdam {engine} packed", f"GpuAdam {engine} in place"
    return [
        *_proofs(parts),
        *_single_tensors(cases, (packed, in_place)),
        *_lists(cases, (packed, in_place)),
        *_clipping(cases, f"{packed}, {ADDED['clip']}"),
        *_host(cases, packed),
        *_counts(parts.get("counts", {}).get("rows", [])),
    ]


def _proofs(parts: Mapping[str, Any]) -> Iterator[Goal]:
    bits, tests, tools = (parts.get(name, {}) for name in ("bits", "tests", "sanitizers"))
    wrong = bits["of"] - bits["same"] if bits.get("of") else None
    yield Goal("programs with other bits than the cpu engine's, or not come to", wrong, 0, True, "n")
    for name, spoken in (("failed", "failed"), ("unfinished", "not run to their end")):
        yield Goal(f"tests that need a GPU: {spoken}", tests[name] if tests.get("of") else None, 0, True, "n")
    for tool in TOOLS:
        found = tools.get("tools", {}).get(tool, {}).get("errors")
        yield Goal(f"errors that {tool} finds", found, 0, True, "n")


def _single_tensors(cases: Mapping[str, Rows], ways: Sequence[str]) -> Iterator[Goal]:
    for way in ways:
        share = _ratio(cases.get("single-256Mi", {}), LIMIT, way, "device")
        yield Goal(f"256 Mi elements, {way}: share of the plain copy's bandwidth", share, COPY_SHARE, False, "%")
    for measure in ("device", "wall"):
        for way in ways:
            found = [
                (ratio, case)
                for case, rows in cases.items()
                if case.startswith("single-") and "bfloat16" not in case
                if (ratio := _ratio(rows, way, TORCH, measure))
            ]
            most, case = max(found, default=(None, ""))
            where = f" ({case})" if case else ""
            yield Goal(f"{way}: most of {TORCH}'s {measure} time at any size{where}", most, 1.0, True, "x")


def _lists(cases: Mapping[str, Rows], ways: Sequence[str]) -> Iterator[Goal]:
    for case, spoken, factor in LISTS:
        rows = cases.get(case, {})
        # No step can be faster than the memory: what is asked may be more than that leaves.
        copy, theirs = (rows.get(label, {}).get(name) for label, name in ((LIMIT, "device"), (TORCH, "wall")))
        bound = f" (a copy: {theirs / copy:.1f} x)" if copy and theirs else ""
        for way in ways:
            times = _ratio(rows, TORCH, way, "wall")
            yield Goal(f"{spoken}, {way}: wall times shorter than {TORCH}'s{bound}", times, factor, False, "x")


def _clipping(cases: Mapping[str, Rows], way: str) -> Iterator[Goal]:
    for case in CLIPPED:
        times = _ratio(cases.get(case, {}), PAIRS["clip"], way, "wall")
        yield Goal(f"{case}, packed: times as fast as {PAIRS['clip']}", times, CLIP_FACTOR, False, "x")


def _host(cases: Mapping[str, Rows], packed: str) -> Iterator[Goal]:
    found = [(rows[packed]["host"], case) for case, rows in cases.items() if packed in rows]
    most, case = max(found, default=(None, ""))
    where = f" ({case})" if case else ""
    yield Goal(f"{packed}: the host's time of a step, most of all cases{where}", most, HOST, True, "us")
    replay = cases.get("small-model", {}).get(f"{packed}, graph replay", {}).get("steady")
    yield Goal("a small model: a graph's replay, one after the other", replay, REPLAY, True, "us")


def _counts(rows: Sequence[Mapping[str, Any]]) -> Iterator[Goal]:
    """What the binding counts, what PyTorch's profiler has seen where it has looked, and whether pools have given out memory."""
    for kind in ("synchronisations", "allocations"):
        seen = [row["a_step"][kind] for row in rows]
        seen += [row["profiler"][kind] for row in rows if isinstance(row["profiler"], dict)]
        if kind == "allocations":
            seen += [int(row["pools_changed"]) for row in rows]
        yield Goal(f"{kind} of a step, most of all programs", max(seen, default=None), 0, True, "n")


def _ratio(rows: Rows, one: str, other: str, measure: str) -> float | None:
    """How many times as long one contender takes as another; ``None`` without both figures."""
    mine, theirs = (rows.get(label, {}).get(measure) for label in (one, other))
    return mine / theirs if mine and theirs else None
