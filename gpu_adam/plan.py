"""What a step runs, as values that can be printed, compared and tested without a GPU; `gpu_adam.launches` makes them.

A launch is one kernel call. The *flat* family updates one stretch of a bucket that holds the parameters themselves; the
*multi-tensor* family updates any number of tensors through a table of pointers and chunks; the *strided* family does the same for
tensors whose elements, or whose gradient's, do not lie one after the other; *rows* updates some rows of one matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .formats import Format
from .kernels.rules import Rule
from .layout import MAX_DIMS, VECTOR_BYTES, Bucket, Device, Walk
from .policy import Geometry
from .prologue import Prologue

Family = Literal["flat", "multi_tensor", "strided", "rows"]

ROLES = ("param", "grad", "state0", "state1", "state2", "master", "average")
"""The streams of a kernel, in the order of a table's pointer rows."""

WALK_WORDS = 1 + 3 * MAX_DIMS
"""Words that describe one strided walk in a table: its dimensions, then sizes, parameter strides and gradient strides."""


@dataclass(frozen=True)
class Specialization:
    """What a kernel is compiled for: all that changes the bytes it moves, and nothing that a uniform branch can decide.

    Attributes:
        family: How the elements are found.
        rule: The update rule.
        param: The parameter's format.
        grad: The gradient's format.
        master: Whether the arithmetic reads and writes a float32 master copy, the parameter being only written.
        average: Whether an average of the parameters is kept, in the working format.
    """

    family: Family
    rule: Rule
    param: Format
    grad: Format
    master: bool
    average: bool = False

    @property
    def states(self) -> int:
        """How many state arrays the rule keeps."""
        return len(self.rule.states)

    @property
    def working(self) -> Format:
        """The format of the arithmetic, of the states and of the coefficients."""
        return self.param.working

    @property
    def lanes(self) -> int:
        """Elements that a thread handles together: as many as 16 bytes of the narrowest stream hold."""
        return VECTOR_BYTES // min(self.param.itemsize, self.grad.itemsize, self.working.itemsize)

    @property
    def bytes_read(self) -> int:
        """Bytes read for one element."""
        param = self.working.itemsize if self.master else self.param.itemsize
        return param + self.grad.itemsize + (self.states + self.average) * self.working.itemsize

    @property
    def bytes_written(self) -> int:
        """Bytes written for one element."""
        master = self.working.itemsize if self.master else 0
        return self.param.itemsize + master + (self.states + self.average) * self.working.itemsize

    @property
    def name(self) -> str:
        """A name that is a legal identifier and says all of the above."""
        master, average = "_master" if self.master else "", "_average" if self.average else ""
        return f"{self.rule.symbol}_{self.family}_{self.param}_{self.grad}{master}{average}"


@dataclass(frozen=True)
class Task:
    """One stretch of elements to update: a tensor, or with ``flat`` a stretch of a bucket.

    Attributes:
        index: The parameter's number; for a flat stretch, that of its first parameter.
        label: What to call it in print.
        size: The number of elements.
        phase: Elements by which the first lies beyond a multiple of the vector (see ``layout.Segment``).
        walk: The strides of the journey.
        row: The row of coefficients that belongs to it.
        flat: Whether it is a stretch of a bucket.
        param, grad, master, average: Formats, and whether there are a master copy and an average.
        rule: The rule.
        pointers: For each of ``ROLES`` the address of the first element, 0 where there is none.
        width: Where the gradient is of some rows only, the elements of a row; else 0.
        indices: The address of these rows' numbers.
    """

    index: int
    label: str
    size: int
    phase: int
    walk: Walk
    row: int
    flat: bool
    param: Format
    grad: Format
    master: bool
    rule: Rule
    pointers: tuple[int, ...]
    average: bool = False
    width: int = 0
    indices: int = 0

    @property
    def specialization(self) -> Specialization:
        """The kernel that it needs."""
        family: Family = "multi_tensor" if self.walk.contiguous else "strided"
        if self.width:
            family = "rows"
        elif self.flat:
            family = "flat"
        return Specialization(family, self.rule, self.param, self.grad, self.master, self.average)


class Table:
    """The multi-tensor families' table: one int64 array, the same for all engines, with views that name its parts.

    For ``S`` segments and ``C`` chunks, in words: ``7·S`` pointers, one row for each of ``ROLES``; ``S`` begins; ``S`` ends; ``S``
    coefficient rows; ``C`` chunk segments; ``C`` chunk starts; and for the strided family ``S`` walks of ``WALK_WORDS``.

    Indices count from the last vector boundary at or before the segment's first element: an element ``i`` in ``[begin, end)`` of
    a stream lies at ``pointer + i·itemsize``, and a chunk covers ``[start, start + chunk) ∩ [begin, end)``.
    """

    def __init__(self, segments: int, chunks: int, *, strided: bool) -> None:
        self.segments = segments
        self.chunks = chunks
        words = (len(ROLES) + 3) * segments + 2 * chunks
        self.words: NDArray[np.int64] = np.zeros(words + (WALK_WORDS * segments if strided else 0), np.int64)
        self.pointers = self.words[: len(ROLES) * segments].reshape(len(ROLES), segments)
        self.begins, self.ends, self.rows = self.words[len(ROLES) * segments : words - 2 * chunks].reshape(3, segments)
        self.chunk_segments, self.chunk_starts = self.words[words - 2 * chunks : words].reshape(2, chunks)
        self.walks = self.words[words:].reshape(-1, WALK_WORDS)

    def pointer_words(self, role: int) -> slice:
        """Where in ``words`` the pointers of one role lie."""
        return slice(role * self.segments, (role + 1) * self.segments)


@dataclass(frozen=True)
class Launch:
    """One kernel call.

    Attributes:
        specialization: Which kernel.
        device: Where.
        grid: Blocks.
        geometry: Their threads, and what each of these does.
        chunk: Elements that a block handles, or where the grid is persistent, those of one of its turns.
        elements: Elements that are updated.
        tasks: What is updated, in the table's order; one task for the flat family and for rows.
        table: The multi-tensor families' table; ``None`` for the others.
    """

    specialization: Specialization
    device: Device
    grid: int
    geometry: Geometry
    chunk: int
    elements: int
    tasks: tuple[Task, ...] = field(repr=False)
    table: Table | None = field(repr=False, compare=False)

    @property
    def block(self) -> int:
        """Threads a block."""
        return self.geometry.threads

    @property
    def bytes_read(self) -> int:
        """Bytes that the launch reads, tables not counted."""
        return self.elements * self.specialization.bytes_read

    @property
    def bytes_written(self) -> int:
        """Bytes that the launch writes."""
        return self.elements * self.specialization.bytes_written

    def __str__(self) -> str:
        s = self.specialization
        what = f"{len(self.tasks):,} tensors" if self.table is not None else self.tasks[0].label
        # A CPU has no grid: its threads share out the elements, or the chunks.
        grid = "" if self.device.kind == "cpu" else f"grid {self.grid:,} x {self.block}, "
        return (
            f"{s.name} on {self.device}: {what}, {self.elements:,} elements, {grid}"
            f"chunk {self.chunk:,}, reads {self.bytes_read:,} B, writes {self.bytes_written:,} B"
        )


@dataclass(frozen=True)
class Plan:
    """All launches of a step, and the buckets that hold the state.

    Attributes:
        buckets: Where the state lies.
        prologues: What each device begins with; none where the host knows the coefficients.
        launches: The updates.
    """

    buckets: tuple[Bucket, ...]
    prologues: tuple[Prologue, ...]
    launches: tuple[Launch, ...]

    @property
    def bytes_moved(self) -> int:
        """Bytes that a step reads and writes."""
        measured = sum(prologue.bytes_read for prologue in self.prologues)
        return measured + sum(launch.bytes_read + launch.bytes_written for launch in self.launches)

    @property
    def elements(self) -> int:
        """Elements that a step updates."""
        return sum(launch.elements for launch in self.launches)

    def __str__(self) -> str:
        each = f" ({self.bytes_moved / self.elements:.1f} a parameter)" if self.elements else ""
        count = len(self.prologues) + len(self.launches)
        launches = f"{count} launch{'' if count == 1 else 'es'}"
        lines = [
            f"step: {launches}, {self.elements:,} elements, {self.bytes_moved:,} bytes{each}",
            *(f"  {bucket}" for bucket in self.buckets),
            *(f"  {launch}" for launch in (*self.prologues, *self.launches)),
        ]
        return "\n".join(lines)
