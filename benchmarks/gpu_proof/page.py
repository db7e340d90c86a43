"""The results as a page in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..goals import goals_page
from ..markdown import table
from .parts import PARTS
from .sections import SECTIONS

DRY_LINE = (
    "**Dry run: the cpu engine stands for the GPU's engines, and written samples for what NVIDIA's tools would print. "
    "Nothing on this page was measured on a GPU, and it claims nothing.**"
)


def page(results: dict[str, Any], plots: Sequence[str]) -> str:
    """All of it.

    Args:
        results: As they are saved.
        plots: File names of the plots, beside the page.
    """
    machine = results["machine"]
    lines = [DRY_LINE, ""] if results["dry_run"] else []
    lines += [f"# GPU proof: {machine.get('gpu', 'unknown')}", ""]
    lines += [f"{results['date']}, commit {results['commit']}, source {results['source']}.", ""]
    lines += [", ".join(f"{name} {value}" for name, value in machine.items()) + ".", ""]
    lines += [", ".join(f"{name} {value}" for name, value in results["versions"].items()) + ".", ""]
    lines += ["## Parts", "", _parts(results), ""]
    if results["goals"]:
        lines += ["## Asked and reached", "", goals_page(results["goals"]), ""]
    for part in PARTS:
        found = results["parts"].get(part.name, {}).get("result")
        if found:
            lines += [f"## {part.name}: {part.what}", "", *_section(part.name, found), ""]
    lines += [f"![]({name})" for name in plots]
    return "\n".join(lines).rstrip() + "\n"


def _section(name: str, found: dict[str, Any]) -> list[str]:
    """What is told of a part; figures of an unexpected kind cost no other part its section."""
    try:
        return list(SECTIONS[name](found))
    except Exception as error:
        return [f"Not shown, but in the JSON: {type(error).__name__}: {error}"]


def _parts(results: dict[str, Any]) -> str:
    rows = []
    for part in PARTS:
        found = results["parts"].get(part.name)
        if found is None:
            rows.append((part.name, "not begun", "", ""))
        else:
            rows.append((part.name, found["status"], f"{found['seconds']:.0f} s", found.get("why", "")))
    return table(("part", "status", "took", "why"), rows)
