"""What must be reached on a GPU, and whether it was: a row for each goal, also where nothing was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..goals import Goal
from ..start import LIMIT
from ..variants import ADDED, PAIRS
from .sanitizers import TOOLS

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


def goals(results: dict[str, Any]) -> list[Goal]:
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
