"""Tables in Markdown, of which all pages are made."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
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


def replaced(text: str, begin: str, end: str, content: str) -> str:
    """A page with what stands between two comments replaced.

    Raises:
        ValueError: If the comments are not there, each once and in this order.
    """
    before, first, rest = text.partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last or begin in after or end in after:
        raise ValueError(f"needs {begin} and, after it, {end}, each once")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def print_into(path: Path, begin: str, end: str, content: str) -> int:
    """Print content, and put it between a page's two comments where these are; the exit status is 1 where they are not."""
    print(content)
    try:
        text = replaced(path.read_text(encoding="utf-8"), begin, end, content)
    except ValueError as error:
        print(f"{path} is left as it is: it {error}", file=sys.stderr)
        return 1
    path.write_text(text, encoding="utf-8")
    return 0
