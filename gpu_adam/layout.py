"""From shapes to places: how each parameter is walked, and where its state lies in the flat buckets.

Everything here is a pure function of shapes, strides, formats, devices and addresses modulo 16, and can be printed and tested
without a GPU. A *segment* is one parameter's stretch of a bucket; a *bucket* is one flat array per state, shared by all
parameters of one device and format.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from .formats import Format

ALIGNMENT = 256
"""Elements: every segment starts on a multiple of it, so that 16-byte accesses and whole cache lines begin with it."""

VECTOR_BYTES = 16
"""Bytes of the widest access of one thread."""

MAX_DIMS = 8
"""Dimensions that a strided walk may have once neighbouring dimensions are merged."""


@dataclass(frozen=True)
class Device:
    """Where an array lives: ``Device("cpu")`` or ``Device("cuda", index)``."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"{self.kind}:{self.index}"


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a C-contiguous array.

    >>> row_major((2, 3, 4))
    (12, 4, 1)
    """
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


@dataclass(frozen=True)
class Walk:
    """The order in which a parameter's elements are visited, and the strides of that journey.

    Dimensions are sorted by the parameter's stride, largest first, dimensions of size 1 dropped, neighbours that continue each
    other merged. For a parameter that is dense in any permutation (C, Fortran, channels-last) it is the order of its memory.
    The state lies in this order, which depends on the parameter alone, so it never moves when a gradient's strides change.

    Attributes:
        shape: Sizes, outermost first; ``()`` for a single element.
        param: The parameter's strides, in elements.
        grad: The gradient's strides, in elements.
    """

    shape: tuple[int, ...]
    param: tuple[int, ...]
    grad: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        """Whether parameter and gradient are both walked one element after the other."""
        return not self.shape or (len(self.shape) == 1 and self.param == (1,) and self.grad == (1,))


def visiting_order(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """The dimensions of size other than 1, by decreasing magnitude of stride (in elements), ties in their own order.

    >>> visiting_order((2, 3), (1, 2))  # Fortran order: the second dimension is the outer one
    (1, 0)
    """
    return tuple(sorted((d for d, n in enumerate(shape) if n != 1), key=lambda d: -abs(strides[d])))


def walk(shape: Sequence[int], param: Sequence[int], grad: Sequence[int]) -> Walk:
    """The journey through a parameter and its gradient of the same ``shape``, strides in elements.

    >>> walk((4, 1, 5), (5, 99, 1), (5, 7, 1)).contiguous
    True
    >>> walk((2, 3), (3, 1), (1, 2))
    Walk(shape=(2, 3), param=(3, 1), grad=(1, 2))
    """
    if 0 in shape:
        return Walk((0,), (1,), (1,))
    dims: list[tuple[int, int, int]] = []
    for d in visiting_order(shape, param):
        size, p, g = shape[d], param[d], grad[d]
        if dims and dims[-1][1] == p * size and dims[-1][2] == g * size:
            size *= dims.pop()[0]
        dims.append((size, p, g))
    sizes, p_strides, g_strides = zip(*dims, strict=True) if dims else ((), (), ())
    return Walk(sizes, p_strides, g_strides)


def overlaps_itself(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether two indices may reach one element: sound, and exact but for interleavings that no array library makes."""
    if 0 in shape:
        return False
    reach = 0
    for d in reversed(visiting_order(shape, strides)):
        if abs(strides[d]) <= reach:
            return True
        reach += (shape[d] - 1) * abs(strides[d])
    return False


@dataclass(frozen=True)
class Extent:
    """What the layout needs to know of one parameter.

    Attributes:
        index: The parameter's number in the optimizer.
        device: Where it lives.
        format: Its own format.
        shape: Its shape.
        strides: Its strides, in elements.
        address: Its first element's address in bytes.
        master: Whether a float32 master copy is kept.
    """

    index: int
    device: Device
    format: Format
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    address: int
    master: bool

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Segment:
    """One parameter's stretch of a bucket: elements ``[offset + phase, offset + phase + size)`` of each flat array.

    Attributes:
        index: The parameter's number in the optimizer.
        offset: Where its stretch begins, a multiple of ``ALIGNMENT``.
        phase: How many elements the parameter's first one lies beyond a multiple of the vector in its own memory. The state is
            shifted by as much, so that parameter and state reach 16-byte boundaries at the same element, and a misaligned view
            costs a partial first vector and no more.
        size: The number of elements.
    """

    index: int
    offset: int
    phase: int
    size: int

    @property
    def start(self) -> int:
        """The bucket's element that belongs to the parameter's first."""
        return self.offset + self.phase


@dataclass(frozen=True)
class Bucket:
    """Parameters of one device and format whose states share flat arrays of ``size`` elements."""

    device: Device
    format: Format
    master: bool
    segments: tuple[Segment, ...]
    size: int

    def __str__(self) -> str:
        master = " with float32 master weights" if self.master else ""
        used = sum(segment.size for segment in self.segments)
        return (
            f"bucket {self.device} {self.format}{master}: {len(self.segments)} segments, "
            f"{used:,} elements in {self.size:,} places"
        )


def phase_of(extent: Extent) -> int:
    """Elements between the last multiple of the vector before the parameter and the parameter's first element."""
    lanes = VECTOR_BYTES // extent.format.itemsize
    # An address that is no multiple of its own itemsize is refused earlier; a strided walk reads element by element anyhow.
    return extent.address // extent.format.itemsize % lanes


def pack(extents: Iterable[Extent], *, aligned: bool = False) -> tuple[Bucket, ...]:
    """Buckets for these parameters, in the order in which each kind first appears.

    Args:
        extents: The parameters, in the optimizer's order.
        aligned: Whether the parameters themselves will live in the bucket (``pack=True``), and so have no phase of their own.
    """
    kinds: dict[tuple[Device, Format, bool], list[Extent]] = {}
    for extent in extents:
        kinds.setdefault((extent.device, extent.format, extent.master), []).append(extent)
    buckets = []
    for (device, format, master), members in kinds.items():
        segments = []
        offset = 0
        for extent in members:
            phase = 0 if aligned else phase_of(extent)
            segments.append(Segment(extent.index, offset, phase, extent.size))
            offset += -(-(phase + extent.size) // ALIGNMENT) * ALIGNMENT
        buckets.append(Bucket(device, format, master, tuple(segments), offset))
    return tuple(buckets)
