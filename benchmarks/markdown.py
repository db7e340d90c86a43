"""Tables in Markdown, of which all pages are made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: bool = False) -> str:
    """A table; with ``numbers`` all columns but the first stand to the right.

    >>> print(table(["size", "time"], [["16 Mi", 3]], numbers=True))
    | size | time |
    | --- | ---: |
    | 16 Mi | 3 |
    """

    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = "| " + " | ".join(["---", *("---:" if numbers else "---" for _ in head[1:])]) + " |"
    return "\n".join([line(head), rule, *map(line, rows)])
