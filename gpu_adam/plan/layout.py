"""From shapes to places: how each parameter is walked, and where its state lies in the flat buckets.

Everything here is a pure function of shapes, strides, formats, devices and addresses modulo 16, and can be printed and tested
without a GPU. A *segment* is one parameter's stretch of a bucket; a *bucket* is one flat array per state, shared by all
parameters of one device and format.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from ..device import Device
from ..dtypes import Format
from ..kernels.abi import VECTOR_BYTES

ALIGNMENT = 256
"""Elements: every segment starts on a multiple of it, so that 16-byte accesses and whole cache lines begin with it."""


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
