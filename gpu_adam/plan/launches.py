"""What a step runs, as values that can be printed, compared and tested without a GPU; `gpu_adam.plan.planner` makes them.

A launch is one kernel call. The *flat* family updates one stretch of a bucket that holds the parameters themselves; the
*multi-tensor* family updates any number of tensors through a table of pointers and chunks; the *strided* family does the same for
tensors whose elements, or whose gradient's, do not lie one after the other; *rows* updates some rows of one parameter.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, replace

from ..device import Device
from ..dtypes import Format
from ..kernels.abi import ROLES, WORD
from ..kernels.rules.rule import Rule
from ..kernels.specialization import CoalesceKernel, Family, Specialization, blocks_of_rows, log2_tile
from ..strides import Walk
from .layout import Bucket
from .policy import Geometry
from .prologue import Prologue
from .tables import Table
from .updates import SparseOperand

_PARAM = ROLES.index("param")


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

    @property
    def log2_tile(self) -> int:
        """Where the gradient is of some rows only, which power of two of a GPU's threads have a row."""
        lanes, itemsize = self.specialization.lanes, self.param.itemsize
        return log2_tile(self.width, lanes, self.pointers[_PARAM] // itemsize % lanes)


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
        resting: How many of the tasks are left alone, since their gradient is absent.
    """

    specialization: Specialization
    device: Device
    grid: int
    geometry: Geometry
    chunk: int
    elements: int
    tasks: tuple[Task, ...] = field(repr=False)
    table: Table | None = field(repr=False, compare=False)
    resting: int = 0

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

    def without(self, resting: Set[int]) -> Launch:
        """The same where these parameters are left alone."""
        left = [task.size for task in self.tasks if task.index in resting]
        return replace(self, elements=self.elements - sum(left), resting=len(left)) if left else self

    def __str__(self) -> str:
        s = self.specialization
        what = self.tasks[0].label
        if self.table is not None:
            what = f"{len(self.tasks) - self.resting:,} tensors"
        if self.resting:
            what += f" ({self.resting:,} more at rest)" if self.table is not None else " (at rest)"
        # A CPU has no grid: its threads share out the elements, or the chunks.
        grid = "" if self.device.kind == "cpu" else f"grid {self.grid:,} x {self.block}, "
        return (
            f"{s.name} on {self.device}: {what}, {self.elements:,} elements, {grid}"
            f"chunk {self.chunk:,}, reads {self.bytes_read:,} B, writes {self.bytes_written:,} B"
        )


@dataclass(frozen=True)
class SparseSum:
    """The kernel call that sums a sparse gradient's rows of equal numbers, before the step reads the sums.

    How many rows a step gives is not known before it, so its bytes count all that there is room for.

    Attributes:
        index: The parameter's number.
        label: What to call it in print.
        device: Where.
        working: The format of the sums.
        operand: The gradient.
    """

    index: int
    label: str
    device: Device
    working: Format
    operand: SparseOperand

    @property
    def kernel(self) -> CoalesceKernel:
        """Which kernel."""
        return CoalesceKernel(self.operand.values, self.working)

    @property
    def bytes_read(self) -> int:
        """Bytes that it reads: each row's elements, its number, and its place in their order."""
        return self.operand.capacity * (self.operand.width * self.operand.values.itemsize + 2 * WORD)

    @property
    def bytes_written(self) -> int:
        """Bytes that it writes: each row's sum and its number."""
        return self.operand.capacity * (self.operand.width * self.working.itemsize + WORD)

    def __str__(self) -> str:
        kernel, capacity, width = self.kernel, self.operand.capacity, self.operand.width
        blocks = blocks_of_rows(capacity, log2_tile(width, kernel.lanes))
        grid = "" if self.device.kind == "cpu" else f"grid {blocks:,} x {kernel.threads}, "
        return (
            f"{kernel.name} on {self.device}: {self.label}, {capacity:,} rows of {width:,} elements, {grid}"
            f"reads {self.bytes_read:,} B, writes {self.bytes_written:,} B"
        )


@dataclass(frozen=True, repr=False)
class Plan:
    """All launches of a step, and the buckets that hold the state.

    Attributes:
        buckets: Where the state lies.
        sums: The sums of sparse gradients, which come first.
        prologues: What comes next on each device; none where the host knows the coefficients.
        launches: The updates.
    """

    buckets: tuple[Bucket, ...]
    sums: tuple[SparseSum, ...]
    prologues: tuple[Prologue, ...]
    launches: tuple[Launch, ...]

    def without(self, resting: Set[int]) -> Plan:
        """What runs where these parameters are left alone."""
        if not resting:
            return self
        return replace(
            self,
            sums=tuple(one for one in self.sums if one.index not in resting),
            prologues=tuple(one.current() for one in self.prologues),
            launches=tuple(one.without(resting) for one in self.launches),
        )

    @property
    def kernels(self) -> tuple[SparseSum | Prologue | Launch, ...]:
        """Every kernel call, in the order in which they are queued on a device."""
        return (*self.sums, *self.prologues, *self.launches)

    @property
    def bytes_moved(self) -> int:
        """Bytes that a step reads and writes."""
        summed = sum(one.bytes_read + one.bytes_written for one in self.sums)
        measured = sum(prologue.bytes_read for prologue in self.prologues)
        return summed + measured + sum(launch.bytes_read + launch.bytes_written for launch in self.launches)

    @property
    def elements(self) -> int:
        """Elements that a step updates."""
        return sum(launch.elements for launch in self.launches)

    def __str__(self) -> str:
        each = f" ({self.bytes_moved / self.elements:.1f} a parameter)" if self.elements else ""
        count = len(self.kernels)
        launches = f"{count} launch{'' if count == 1 else 'es'}"
        lines = [
            f"step: {launches}, {self.elements:,} elements, {self.bytes_moved:,} bytes{each}",
            *(f"  {bucket}" for bucket in self.buckets),
            *(f"  {kernel}" for kernel in self.kernels),
        ]
        return "\n".join(lines)

    __repr__ = __str__
