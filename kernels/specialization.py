"""What a kernel is compiled for."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import ClassVar, Literal, get_args

from gpu_adam.dtypes import Format

from .abi import ROW_THREADS, VECTOR_BYTES
from .rules.rule import Rule
from .streams import Storage, Stream

Family = Literal["flat", "multi_tensor", "strided", "rows"]


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
    def streams(self) -> tuple[Stream, ...]:
        """What it reads and writes, in the order in which an update does."""
        kept = Storage.of(self.working)
        streams = [Stream("param", Storage.of(self.param), read=not self.master, written=True)]
        if self.master:
            streams.append(Stream("master", kept, read=True, written=True))
        streams.append(Stream("grad", Storage.of(self.grad), read=True, written=False))
        streams += [Stream(f"state{k}", kept, read=True, written=True) for k in range(self.states)]
        if self.average:
            streams.append(Stream("average", kept, read=True, written=True))
        return tuple(streams)

    @property
    def lanes(self) -> int:
        """Elements that a thread handles together: as many as 16 bytes of the narrowest stream hold."""
        return VECTOR_BYTES // min(stream.storage.itemsize for stream in self.streams)

    @property
    def bytes_read(self) -> int:
        """Bytes read for one element."""
        return sum(stream.storage.itemsize for stream in self.streams if stream.read)

    @property
    def bytes_written(self) -> int:
        """Bytes written for one element."""
        return sum(stream.storage.itemsize for stream in self.streams if stream.written)

    @property
    def name(self) -> str:
        """A name that is a legal identifier and says all of the above."""
        master, average = "_master" if self.master else "", "_average" if self.average else ""
        return f"{self.rule.symbol}_{self.family}_{self.param}_{self.grad}{master}{average}"


Hint = Literal["streaming", "keep_param", "plain"]
"""What the caches are told. ``"streaming"``: all that is read and written is to leave them first. ``"keep_param"``: all but the parameter
that is written, which the next forward pass reads. ``"plain"``: nothing."""


HINTS: tuple[Hint, ...] = get_args(Hint)


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
    """The prologue (`gpu_adam.kernels.prologue`); its block is of ``gpu_adam.kernels.abi.PROLOGUE_THREADS``.

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
    """The sum of a gradient's rows of the same number; it has a tile of a block for each row that there is room for.

    Attributes:
        values: The gradient's format.
        working: The format of the sums.
    """

    values: Format
    working: Format
    rule: ClassVar[Rule | None] = None
    threads: ClassVar[int] = ROW_THREADS

    @property
    def lanes(self) -> int:
        """Elements that a thread handles together: as many as 16 bytes of the narrower format hold."""
        return VECTOR_BYTES // min(self.values.itemsize, self.working.itemsize)

    @property
    def name(self) -> str:
        """By its formats."""
        return f"coalesce_{self.values}_{self.working}"


Kernel = UpdateKernel | PrologueKernel | CoalesceKernel


def log2_tile(width: int, lanes: int, phase: int = 0) -> int:
    """Which power of two of threads a tile has: one for each vector that a row touches, up to the whole block.

    Args:
        width: Elements of a row.
        lanes: Elements of a vector.
        phase: Elements by which the first row begins beyond a vector's first. The others follow, so that what divides width and lanes tells
            where they may begin.

    >>> [log2_tile(width, lanes=4) for width in (1, 4, 5, 128, 129, 100_000)]
    [0, 0, 1, 5, 6, 7]
    >>> log2_tile(128, lanes=4, phase=1)
    6
    """
    step = gcd(width, lanes)
    before = lanes - step + phase % step
    vectors = -(-(before + width) // lanes)
    return min((vectors - 1).bit_length(), ROW_THREADS.bit_length() - 1)


def blocks_of_rows(rows: int, log2_tile: int) -> int:
    """Blocks that have a tile for each of these rows.

    >>> blocks_of_rows(1000, 0), blocks_of_rows(1000, 6)
    (8, 500)
    """
    return -(-(rows << log2_tile) // ROW_THREADS)
