"""Where in the tables the words lie that come after the rows of their segments; plain functions, which each target compiles.

A table of many tensors has ``TABLE_ROWS`` rows of a word for each segment; then for each chunk its segment; for each chunk its start; and
where tensors are strided, for each segment a walk of ``WALK_WORDS``. A table of gradients that are measured has ``MEASURE_ROWS`` rows; then
for each leaf its gradient; and where gradients are strided, for each of them a walk of ``MEASURE_WALK_WORDS``.
"""

from __future__ import annotations

from .abi import MEASURE_ROWS, TABLE_ROWS


def chunk_segments(segments: int) -> int:
    """The chunks' segments; as many words behind each as there are chunks lies where the chunk starts."""
    return TABLE_ROWS * segments


def walks(segments: int, chunks: int) -> int:
    """The segments' walks."""
    return TABLE_ROWS * segments + 2 * chunks


def leaf_segments(segments: int) -> int:
    """The leaves' gradients; behind them all lie the gradients' walks."""
    return MEASURE_ROWS * segments
