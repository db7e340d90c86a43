"""What all sections of the ledger's page are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""A row of the ledger: what is known of one kernel on one architecture."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, its numbers to the right."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def label(kernel: str) -> str:
    """A kernel's name for readers.

    >>> label("adam_multi_tensor_bfloat16_bfloat16_master_average")
    'multi-tensor bfloat16, master, average'
    >>> label("measure_float32")
    'measure float32'
    >>> label("adam_prologue")
    'prologue'
    """
    name = kernel.removeprefix("adam_").replace("multi_tensor", "multi-tensor")
    family, *formats = name.split("_")
    return f"{family} {', '.join([*formats[:1], *formats[2:]])}".rstrip()
