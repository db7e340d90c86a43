"""Launch geometry as data: a block's threads, what each of them does, what the caches are told, and how long a chunk is.

Nothing here changes a bit of the results. `benchmarks/ledger` has what the choices rest on, `benchmarks/gpu_proof` tries others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..dtypes import Format
from ..kernels.specialization import HINTS, Hint


def _require(name: str, number: int, least: int, most: int | None = None) -> None:
    if not isinstance(number, int) or number < least or (most is not None and number > most):
        bound = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={number!r}: must be an integer, {bound}")


@dataclass(frozen=True)
class Geometry:
    """How an update is launched on a GPU.

    Attributes:
        threads: Threads in a block.
        vectors: Vectors that a thread loads before it computes with the first.
        hint: What the caches are told.
        blocks: Of a persistent grid, whose blocks take one chunk after the other, the blocks for each multiprocessor. 0 for a block of its
            own for each chunk.

    Raises:
        ValueError: If a number is out of its range or the hint is unknown.
    """

    threads: int = 256
    vectors: int = 1
    hint: Hint = "streaming"
    blocks: int = 0

    def __post_init__(self) -> None:
        _require("threads", self.threads, 1, 1024)
        _require("vectors", self.vectors, 1)
        _require("blocks", self.blocks, 0)
        if self.hint not in HINTS:
            raise ValueError(f"hint={self.hint!r}: use {', '.join(map(repr, HINTS))}")

    @property
    def persistent(self) -> bool:
        """Whether the grid is."""
        return self.blocks > 0

    def grid(self, chunks: int, processors: int) -> int:
        """Blocks of a launch.

        >>> Geometry().grid(5000, 132), Geometry(blocks=4).grid(5000, 132), Geometry(blocks=4).grid(50, 132)
        (5000, 528, 50)
        """
        return min(chunks, self.blocks * processors) if self.persistent else chunks


@dataclass(frozen=True)
class Policy:
    """A geometry for each format of the parameter, and what the chunks of a table are cut by.

    Attributes:
        float32, float16, bfloat16, float64: The geometries.
        waves: Chunks that each multiprocessor should find. Some six run at once and all take as long, so that the last ones, for which some
            multiprocessors have no counterpart, are a small part of the whole (`benchmarks/ledger`).
        min_chunk: The fewest elements of a chunk, a power of two.
        max_chunk: The most elements of a chunk, a power of two.

    Raises:
        ValueError: If a number is out of its range.
    """

    # For all of them: Little's law asks for 16 KiB of loads in flight on each of H100's multiprocessors and for 38 on B200's. 128 threads
    # are the same in that, and 512 leave room for fewer of them. A persistent grid takes a flat kernel 6 to 22 registers to keep what a
    # block of its own reads once. Nothing that is streamed is read again before the next step.

    # 96 KiB in flight on sm_90, 80 on sm_100. Two vectors take more registers than they bring in flight.
    float32: Geometry = Geometry()
    # With master weights a vector is 8 elements and asks for 112 bytes already; two spill.
    float16: Geometry = Geometry()
    bfloat16: Geometry = Geometry()
    # The nearest to the limit, 64 KiB. Two vectors, 96 KiB, spill on sm_100: the first to try on a B200.
    float64: Geometry = Geometry()
    waves: int = 64
    min_chunk: int = 1024
    max_chunk: int = 65_536

    def __post_init__(self) -> None:
        _require("waves", self.waves, 1)
        _require("min_chunk", self.min_chunk, 1, self.max_chunk)
        for name in ("min_chunk", "max_chunk"):
            chunk = getattr(self, name)
            if chunk & (chunk - 1):
                raise ValueError(f"{name}={chunk}: must be a power of two")

    @classmethod
    def uniform(cls, geometry: Geometry, **chunks: Any) -> Policy:
        """The same geometry for every format; the other arguments by name."""
        return cls(geometry, geometry, geometry, geometry, **chunks)

    def geometry(self, param: Format) -> Geometry:
        """The geometry for parameters of a format."""
        found: Geometry = getattr(self, param.name)
        return found

    def chunk(self, elements: int, processors: int) -> int:
        """Elements of a chunk for this much work: a power of two within the bounds, enough chunks to fill every processor.

        >>> Policy().chunk(1_000_000, 132)
        1024
        >>> Policy().chunk(1 << 30, 132)
        65536
        """
        wanted = -(-elements // (processors * self.waves))
        power = 1 << max(wanted - 1, 0).bit_length()
        # Rounding up may leave processors without work where rounding down does not.
        if -(-elements // power) < processors:
            power //= 2
        return min(max(power, self.min_chunk), self.max_chunk)


GPU_POLICY = Policy()


CPU_POLICY = Policy.uniform(Geometry(threads=1, vectors=1 << 18), waves=4, min_chunk=4096, max_chunk=1 << 20)
"""A CPU thread streams long stretches best: short ones cost calls, and only the balance between threads bounds them above."""
