"""What the page tells of each part of the proof."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..markdown import table
from ..report import time_text

SHOWN = 60
"""Lines of differences, at most."""

_OF_TIMES = """Device time is between events, the cache full of other memory; host until the call returns; wall until the device is done;
steady is the share of one of many in a row. Medians, and of the device time quartiles. *limit* is a plain copy on the device that
reads and writes as many bytes as a step has to; GB/s are of these bytes, and x copy is the device time over the copy's. Where there is
no device time, the host was too slow for it to be told apart, or the contender works on a stream of its own, as JAX does."""

_OF_COUNTS = """Counted at the engine's binding to CUDA and, where it could look, by PyTorch's profiler. A step waits for the event of
the step 32 before, which keeps the host from running further ahead; on a device that keeps up it has long been reached."""


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else time_text(seconds)


def bits(found: dict[str, Any]) -> list[str]:
    rows, told = [], []
    for row in found["table"]:
        name = row["optimizer"] + (f", {row['settings']}" if row["settings"] else "")
        state = row["status"] if row["status"] == "done" else f"{row['status']} {row.get('why', '')}"
        of, same, different = row.get("of", 0), row.get("same", 0), row.get("different", {})
        rows.append((name, row["engine"], of, same, len(different), of - same - len(different), state))
        told += [f"- {row['engine']}: {cell}: {what}" for cell, what in different.items()]
    head = ("optimizer", "engine", "programs", "the same bits", "other bits", "not come to", "")
    return [table(head, rows), "", *told[:SHOWN], *_more(told)]


def _more(told: Sequence[str]) -> list[str]:
    return [f"- and {len(told) - SHOWN:,} more"] if len(told) > SHOWN else []


def tests(found: dict[str, Any]) -> list[str]:
    counts = ", ".join(f"{found[name]} {name}" for name in ("passed", "failed", "skipped"))
    counts += f"; {found['unfinished']} of {found['of']} did not run."
    told = {**found["uncollected"], **found["failures"]}
    failures = [f"- `{test}`: {why.splitlines()[0] if why else ''}" for test, why in told.items()]
    skips = [f"- skipped {count}: {why}" for why, count in found["skips"].items()]
    return [counts, "", *failures, *skips]


def sanitizers(found: dict[str, Any]) -> list[str]:
    rows = [
        (
            tool,
            one["status"],
            "-" if one["errors"] is None else one["errors"],
            one.get("why") or "; ".join(one["told"][:3]),
        )
        for tool, one in found.get("tools", {}).items()
    ]
    return [table(("tool", "status", "errors", "why, or its first lines"), rows)]


def bench(found: dict[str, Any]) -> Iterator[str]:
    yield _OF_TIMES
    for case in found["cases"]:
        tensors = f"{case['tensors']:,} tensor{'s' if case['tensors'] > 1 else ''}"
        what = f"{tensors}, {case['elements']:,} elements of {case['format']}, {case['bytes'] / 1e6:,.3g} MB a step"
        yield from ("", f"### {case['name']}", "", f"{what}.", "")
        rows = []
        for row in case["rows"]:
            rate, share = row.get("bytes_per_second"), row.get("to_limit")
            spread = "-" if row["device"] is None else " to ".join(map(_time, row["device_quartiles"]))
            rows.append(
                (
                    row["label"],
                    _time(row["device"]),
                    spread,
                    # PyTorch's bfloat16 moves half the bytes, and the parts of a pair others: a rate would say nothing.
                    "-" if rate is None or not _moves_all(case, row["label"]) else f"{rate / 1e9:,.0f}",
                    "-" if share is None else f"{share:.3g}",
                    _time(row["host"]),
                    _time(row["wall"]),
                    _time(row["steady"]),
                )
            )
        yield table(("", "device", "quartiles", "GB/s", "x copy", "host", "wall", "steady"), rows)
        yield from (f"- left out: {label}: {why}" for label, why in case["left_out"].items())
    yield from (f"- {name} failed: {why}" for name, why in found.get("failed", {}).items())
    if found["missing"]:
        yield from ("", f"Not come to: {', '.join(found['missing'])}.")


def _moves_all(case: dict[str, Any], label: str) -> bool:
    if case["format"] == "bfloat16" and label.startswith("torch"):
        return False
    return case["variant"] == "plain" or "," in label or label == "limit"


def counts(found: dict[str, Any]) -> list[str]:
    kinds = ("launches", "copies", "synchronisations", "allocations", "waits for an event")
    rows = []
    for row in found["rows"]:
        profiler = row["profiler"]
        seen = [profiler if isinstance(profiler, str) else ", ".join(f"{profiler[kind]:g}" for kind in kinds)]
        counted = [f"{row['a_step'][kind]:g}" for kind in kinds[:4]]
        rows.append(
            (
                row["engine"],
                row["program"],
                row["planned_launches"],
                *counted,
                "yes" if row["pools_changed"] else "no",
                *seen,
            )
        )
    head = (
        "engine",
        "program",
        "planned launches",
        *kinds[:4],
        "pools changed",
        f"by PyTorch's profiler: {', '.join(kinds)}",
    )
    return [
        _OF_COUNTS,
        "",
        table(head, rows),
    ]


def counters(found: dict[str, Any]) -> list[str]:
    def number(row: dict[str, Any], name: str, scale: float = 1.0) -> str:
        return "-" if row.get(name) is None else f"{row[name] * scale:,.4g}"

    rows = [
        (
            row["name"],
            row["case"],
            _time(row["nanoseconds"] / 1e9) if row.get("nanoseconds") else "-",
            number(row, "dram_bytes_per_second", 1e-9),
            number(row, "moved_to_planned"),
            number(row, "dram_percent"),
            f"{number(row, 'occupancy_percent')} of {number(row, 'occupancy_limit_percent')}",
            number(row, "registers"),
        )
        for row in found["rows"]
    ]
    head = ("kernel", "case", "time", "memory GB/s", "bytes over the plan's", "% of peak", "occupancy %", "registers")
    return [table(head, rows)]


def training(found: dict[str, Any]) -> list[str]:
    rows = [
        (row["engine"], row["way"], row["left_out"], "", "", "", "")
        if "left_out" in row
        else (
            row["engine"],
            row["way"],
            f"{row['accuracy']:.2%}",
            f"{row['steps']:,}",
            f"{row['seconds']:.2f} s",
            _time(row["step_seconds"]),
            " to ".join(
                "not finite" if loss is None else f"{loss:.3g}" for loss in (row["first_loss"], row["last_loss"])
            ),
        )
        for row in found["rows"]
    ]
    head = ("engine", "", "test accuracy", "steps", "took", "a step() of the optimizer", "loss")
    return [f"{found['data']}, {found['images']:,} training images.", "", table(head, rows)]


def sweep(found: dict[str, Any]) -> Iterator[str]:
    named = []
    for tried in found["tables"]:
        usual, best = tried["rows"][:1], tried.get("best")
        if best:
            what = "the usual" if best == usual[0] else _policy(best, usual[0])
            named.append(
                (tried["family"], tried["format"], what, f"{best['to_limit']:.4g}", f"{usual[0]['to_limit']:.4g}")
            )
    yield table(("family", "format", "best", "x copy", "the usual, x copy"), named)
    for tried in found["tables"]:
        yield from ("", f"### {tried['family']}, {tried['case']}", "")
        rows = []
        for row in tried["rows"]:
            bits = {True: "the same bits", False: "**other bits**"}.get(row.get("same_bits"), row.get("left_out", ""))
            share = row.get("to_limit")
            rows.append((_policy(row), _time(row.get("seconds")), "-" if share is None else f"{share:.4g}", bits))
        yield table(("policy", "device", "x copy", ""), rows)


def _policy(row: dict[str, Any], usual: dict[str, Any] | None = None) -> str:
    """A policy, or what of it differs from the usual one."""
    than = usual["policy"] if usual else {}
    return ", ".join(f"{name} {value}" for name, value in row["policy"].items() if than.get(name) != value)


SECTIONS: dict[str, Any] = {
    "bits": bits,
    "bench": bench,
    "counts": counts,
    "tests": tests,
    "sanitizers": sanitizers,
    "counters": counters,
    "training": training,
    "sweep": sweep,
}
"""By the names of the parts."""
