"""Which kernels the GPU engines compile, as values, and the arguments that these take: the same in CUDA C++ and in Numba's Python.

Each has a ``name``, a legal identifier that leaves the geometry out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..formats import Format
from ..kernels.row import ROW_WORDS
from ..kernels.rules import Rule
from ..layout import VECTOR_BYTES
from ..plan import Launch, Specialization
from ..policy import Hint


@dataclass(frozen=True)
class UpdateKernel:
    """An update.

    Attributes:
        specialization: What it is compiled for.
        threads: Threads in a block, at most.
        vectors: Vectors that a thread loads before it computes with the first.
        hint: What the caches are told.
        persistent: Whether its blocks go on with another chunk; not for rows.
    """

    specialization: Specialization
    threads: int
    vectors: int
    hint: Hint = "streaming"
    persistent: bool = False

    @property
    def rule(self) -> Rule | None:
        """The rule that is compiled into it."""
        return self.specialization.rule

    @property
    def name(self) -> str:
        """The specialization's."""
        return self.specialization.name


@dataclass(frozen=True)
class PrologueKernel:
    """The prologue (`gpu_adam.kernels.prologue`); its block is of ``gpu_adam.prologue.PROLOGUE_THREADS``.

    Attributes:
        rule: A rule whose coefficients it computes.
    """

    rule: Rule

    @property
    def name(self) -> str:
        """By its rule."""
        return f"{self.rule.symbol}_prologue"


@dataclass(frozen=True)
class CoalesceKernel:
    """The sum of a gradient's rows of the same number; it has a block for each row that there is room for.

    Attributes:
        values: The gradient's format.
        working: The format of the sums.
        threads: Threads in a block.
    """

    values: Format
    working: Format
    threads: int
    rule: ClassVar[Rule | None] = None

    @property
    def name(self) -> str:
        """By its formats."""
        return f"coalesce_{self.values}_{self.working}"


Kernel = UpdateKernel | PrologueKernel | CoalesceKernel


def update_kernel(launch: Launch) -> UpdateKernel:
    """The kernel of a launch."""
    geometry = launch.geometry
    return UpdateKernel(launch.specialization, geometry.threads, geometry.vectors, geometry.hint, geometry.persistent)


def coalesce_kernel(values: Format, working: Format, width: int) -> CoalesceKernel:
    """The kernel for rows of ``width`` elements: threads for their vectors, from a warp to 256, in few sizes.

    >>> from gpu_adam.formats import FLOAT32
    >>> coalesce_kernel(FLOAT32, FLOAT32, 300).threads
    128
    """
    vectors = -(-width * max(values.itemsize, working.itemsize) // VECTOR_BYTES)
    return CoalesceKernel(values, working, min(max(32, 1 << max(vectors - 1, 0).bit_length()), 256))


def update_arguments(launch: Launch, table: int, coefficients: int) -> tuple[int, ...]:
    """An update's arguments, in the order of its kernel's parameters.

    Args:
        launch: The kernel call.
        table: The address of its table on the device; for launches without a table none is needed.
        coefficients: The address of the rows of its working format.
    """
    if launch.table is not None:
        return (table, launch.table.segments, launch.table.chunks, launch.chunk, coefficients)
    (task,) = launch.tasks
    row = coefficients + task.row * ROW_WORDS * launch.specialization.working.itemsize
    if task.width:
        return (*task.pointers, task.width, task.size // task.width, task.indices, row)
    return (*task.pointers, task.size, row)
