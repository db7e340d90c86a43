"""What must be reached on a GPU, and whether it was; goals without a figure are left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..goals import Goal
from ..start import LIMIT
from ..variants import ADDED, PAIRS

COPY_SHARE = 0.95
LIST_FACTORS = (("gpt2-124m", "GPT-2 124M", 5.0), ("3000x3500", "3,000 tensors of 3,500", 20.0))
HOST = 20e-6
CLIP_FACTOR = 1.5
REPLAY = 10e-6


def goals(results: dict[str, Any]) -> list[Goal]:
    """The goals that the results have figures for; of a dry run none, since nothing of it is a claim."""
    if results["dry_run"]:
        return []
    parts = {name: part.get("result", {}) for name, part in results["parts"].items()}
    found = [*_proofs(parts)]
    cases = {
        case["name"]: {row["label"]: row for row in case["rows"]} for case in parts.get("bench", {}).get("cases", [])
    }
    ours = next((label.split()[1] for rows in cases.values() for label in rows if label.startswith("GpuAdam ")), None)
    if ours is not None:
        found += [*_speeds(cases, f"GpuAdam {ours}"), *_clipping(cases, f"GpuAdam {ours}")]
    return [*found, *_counts(parts.get("counts", {}))]


def _proofs(parts: dict[str, Any]) -> Iterator[Goal]:
    if parts.get("bits", {}).get("of"):
        bits = parts["bits"]
        yield Goal("programs whose bits are the cpu engine's", bits["same"], bits["of"], False, "n")
    if parts.get("tests", {}).get("of"):
        tests = parts["tests"]
        yield Goal("tests that need a GPU: failed", tests["failed"], 0, True, "n")
        yield Goal("tests that need a GPU: not run to their end", tests["unfinished"], 0, True, "n")
    for tool, found in parts.get("sanitizers", {}).get("tools", {}).items():
        if found["errors"] is not None:
            yield Goal(f"errors that {tool} finds", found["errors"], 0, True, "n")


def _speeds(cases: dict[str, Any], name: str) -> Iterator[Goal]:
    packed, in_place = f"{name} packed", f"{name} in place"
    for way in (packed, in_place):
        if share := _ratio(cases.get("single-256Mi", {}), LIMIT, way, "device"):
            yield Goal(f"256 Mi elements, {way}: share of the plain copy's bandwidth", share, COPY_SHARE, False, "%")
    for measure in ("device", "wall"):
        for way in (packed, in_place):
            slower = [
                (ratio, case)
                for case, rows in cases.items()
                if case.startswith("single-") and "bfloat16" not in case
                if (ratio := _ratio(rows, way, "torch fused", measure))
            ]
            if slower:
                worst, case = max(slower)
                yield Goal(f"{way}: most of torch fused's {measure} time at any size ({case})", worst, 1.0, True, "x")
    for case, spoken, factor in LIST_FACTORS:
        for way in (packed, in_place):
            if times := _ratio(cases.get(case, {}), "torch fused", way, "wall"):
                yield Goal(f"{spoken}, {way}: wall times shorter than torch fused's", times, factor, False, "x")
    hosts = [rows[packed]["host"] for rows in cases.values() if packed in rows]
    if hosts:
        yield Goal(f"{packed}: the host's time of a step, most of all cases", max(hosts), HOST, True, "us")
    replay = cases.get("small-model", {}).get(f"{packed}, graph replay")
    if replay:
        yield Goal("a small model: a graph's replay, one after the other", replay["steady"], REPLAY, True, "us")


def _clipping(cases: dict[str, Any], name: str) -> Iterator[Goal]:
    for case, rows in cases.items():
        way = f"{name} packed, {ADDED['clip']}"
        if case.startswith("clip-") and (times := _ratio(rows, PAIRS["clip"], way, "wall")):
            yield Goal(f"{case}, packed: times faster than torch's pair", times, CLIP_FACTOR, False, "x")


def _counts(counts: dict[str, Any]) -> Iterator[Goal]:
    rows = counts.get("rows", [])
    for kind in ("synchronisations", "allocations"):
        if rows:
            # What the binding counts, and where PyTorch's profiler has looked, what that has seen.
            seen = [row["a_step"][kind] for row in rows]
            seen += [row["profiler"][kind] for row in rows if isinstance(row["profiler"], dict)]
            yield Goal(f"{kind} of a step, most of all programs", max(seen), 0, True, "n")


def _ratio(rows: dict[str, Any], one: str, other: str, measure: str) -> float | None:
    """How many times as long one contender takes as another; ``None`` without both figures."""
    if one not in rows or other not in rows or not rows[one][measure] or not rows[other][measure]:
        return None
    return float(rows[one][measure] / rows[other][measure])
