"""Multi-tensor apply: any number of tensors in one call, by the chunks of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import table
from ..abi import BEGIN_ROW, COEFFICIENTS_ROW, END_ROW, SKIP
from .float_mode import enter_ieee_mode, leave_ieee_mode
from .stream import load_pointers
from .target import entry, jit
from .update import make_span

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Specialization

_chunk_segments = jit("table")(table.chunk_segments)


@jit("table")
def share(words, segments, chunks, chunk, number):
    """A chunk of the table: its segment's pointers, ``begin`` and ``end`` of its elements, its row of coefficients, and the segment."""
    place = _chunk_segments(segments) + number
    segment, start = words[place], words[place + chunks]
    return (
        load_pointers(words, segment, segments),
        max(start, words[BEGIN_ROW * segments + segment]),
        min(start + chunk, words[END_ROW * segments + segment]),
        words[COEFFICIENTS_ROW * segments + segment],
        segment,
    )


def make_multi_tensor(kind: Specialization) -> Any:
    """See `gpu_adam.kernels.cpu.families.make_kernel`."""
    span = make_span(kind)

    @entry(kind.name)
    def multi_tensor(words, segments, chunks, chunk, first, last, rows):
        before = enter_ieee_mode()
        for number in range(first, last):
            pointers, begin, end, row, _ = share(words, segments, chunks, chunk, number)
            if not rows[row][SKIP]:
                span(pointers, begin, end, rows[row])
        leave_ieee_mode(before)

    return multi_tensor
