"""The figures of training loops as a page in Markdown, and README's table of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..goals import goals_page
from ..machine import BUSY
from ..markdown import print_into, table
from ..record import read
from ..report import time_text
from ..start import LIMIT
from .contenders import ADAMW, BOUND, GPU_ADAM, IN_PLACE, NEW
from .host import cells_of

BEGIN = "<!-- measured in a training loop: python -m benchmarks --readme -->"
END = "<!-- end of measured in a training loop -->"

ARRAYS = "torch tensors, new gradients each step"
"""What every heading says."""

README_COLUMNS = (
    "torch foreach",
    f"{ADAMW} {IN_PLACE}",
    f"{ADAMW} {BOUND}",
    f"{ADAMW} {NEW}",
    f"{GPU_ADAM} {IN_PLACE}",
    f"{GPU_ADAM} {BOUND}",
)

WHAT = (
    "Every contender is given torch tensors of float32 and the same gradients. *New*, and all that is in place: each `.grad` is a tensor "
    "that was not there in the last step. *Bound*: with `pack=True` each `.grad` is the bucket's own, and new values were added to it. "
    "Either is done before the step and not timed, as `backward()` does it. AdamW, one run, contenders by turns, medians of ratios round "
    "by round, results checked before they were timed."
)


def page(results: dict[str, Any]) -> str:
    """All of it."""
    lines = ["# Steps in a training loop", "", WHAT, "", _where(results), ""]
    for variant, heading in (
        ("plain", "a step"),
        ("clip", "with clipping"),
        ("absent", "some gradients absent, others each time"),
    ):
        cases = [case for case in results["cases"] if case["variant"] == variant]
        if cases:
            lines += [f"## {ARRAYS}: {heading}", "", *(line for case in cases for line in _case(case))]
    if "host" in results:
        counts = sorted({row["tensors"] for row in results["host"]})
        head = ["tensors", *(f"{count:,}" for count in counts)]
        lines += [f"## {ARRAYS}: outside the kernel", "", "In brackets the calls of Python functions in a step.", ""]
        lines += [table(head, cells_of(results["host"]), numbers=True), ""]
    if "shards" in results:
        shards = results["shards"]
        said = f"DTensors of {shards['ranks']} processes over gloo, with {threads(shards['threads'])} each; the first one's times."
        lines += [
            f"## FSDP2 shards, {ARRAYS}",
            "",
            said,
            "",
            *(line for case in shards["cases"] for line in _case(case)),
        ]
    if results.get("goals"):
        lines += ["## Asked and reached", "", goals_page(results["goals"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _where(results: dict[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("python", "numpy", "numba", "torch") if name in versions)
    told = f"{machine['cores']} cores of {machine['cpu']}, {machine['system']}; {named}; {threads(results['threads'])} each."
    if machine.get("load_at_start", 0.0) > BUSY * machine["cores"]:
        told += (
            f" **The machine was busy (load {machine['load_at_start']})**: PyTorch's threads then wait for each other."
        )
    return told


def _case(case: dict[str, Any]) -> list[str]:
    """Its heading and table, and a blank line."""
    rows = [row for row in case["rows"] if row["label"] != LIMIT]
    has_plain = any(row.get("to_plain") for row in rows)
    head = ["", "median", "quartiles", "times as fast as PyTorch's", *(["× its plain step"] if has_plain else [])]
    cells = []
    for row in rows:
        low, high = map(time_text, row["quartiles"])
        plain = [f"{row['to_plain']:.2f}" if row["to_plain"] else ""] if has_plain else []
        cells.append([row["label"], time_text(row["median"]), f"{low} to {high}", times(row), *plain])
    against = f", against {case['torch']}" if "torch" in case else ""
    return [f"### {spoken(case)}{against}", "", table(head, cells, numbers=True), ""]


def threads(count: int) -> str:
    """In words."""
    return f"{count} thread{'s'[: count > 1]}"


def times(row: dict[str, Any]) -> str:
    """How many times as fast as PyTorch's it is."""
    return f"{1 / row['to_torch']:.3g}"


def spoken(case: dict[str, Any]) -> str:
    """What a case is called in a table."""
    if case["name"].startswith("loop-gpt2"):
        return f"GPT-2 of half the width, {case['tensors']} tensors"
    if "elements" not in case:
        return str(case["name"])
    each = case["elements"] // case["tensors"]
    called = f"{case['tensors']:,} tensor{'s'[: case['tensors'] > 1]} of {each:,}"
    absent = case["tensors"] - case["updated"] // each
    return f"{called}, {absent / case['tensors']:.1%} absent" if absent else called


def block(results: dict[str, Any]) -> str:
    """README's table."""
    lines = []
    for case in results["cases"]:
        if case["variant"] == "plain":
            rows = {row["label"]: row for row in case["rows"]}
            cells = (times(rows[label]) if label in rows else "-" for label in README_COLUMNS)
            lines.append([spoken(case), time_text(rows[case["torch"]]["median"]), *cells])
    head = [f"{ARRAYS}: a step of", "torch fused takes", *(f"× as fast: {label}" for label in README_COLUMNS)]
    said = f"{_where(results)} `benchmarks/results/training.md` has the rest."
    return "\n".join([said, "", table(head, lines)])


def update_readme(folder: Path, path: Path) -> int:
    """Print README's table of the results in a folder, and put it there; the exit status is 1 where that cannot be done."""
    results = read(folder / "training.json")
    if results is None:
        print(f"{folder / 'training.json'}: no results are there")
        return 1
    return print_into(path, BEGIN, END, block(results))
