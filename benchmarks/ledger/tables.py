"""What all sections of the ledger's page are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import markdown

Row = Mapping[str, Any]
"""A row of the ledger: what is known of one kernel on one architecture."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A section's table, its numbers to the right."""
    return markdown.table(head, rows, numbers=True) + "\n"


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
