"""What a step is to update, as values: what the planner plans from."""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device
from ..dtypes import Format
from ..kernels.rules.rule import Rule
from ..strides import Walk
from .layout import Segment
from .policy import Policy


@dataclass(frozen=True)
class SparseOperand:
    """What is read of a gradient of some rows only, which a kernel sums into a buffer first.

    Attributes:
        values: The format in which the rows are given.
        width: Elements of a row.
        capacity: Rows that there is room for.
        indices: The address of the numbers of the rows that are summed.
    """

    values: Format
    width: int
    capacity: int
    indices: int


@dataclass(frozen=True)
class Operand:
    """What a step reads of one parameter's gradient.

    Attributes:
        address: Of the first element; of a sparse gradient that of the sums.
        size: Elements.
        format: Their format.
        walk: The journey through parameter and gradient.
        sparse: Of a sparse gradient what else there is to know.
    """

    address: int
    size: int
    format: Format
    walk: Walk
    sparse: SparseOperand | None = None


@dataclass(frozen=True)
class Update:
    """One parameter that a step updates.

    Attributes:
        index: Its number.
        label: What to call it in print.
        group: Its group's number.
        device: Where it is.
        format: Its format.
        rule: The rule.
        master: Whether the arithmetic runs on a float32 master copy.
        average: Whether an average of the parameters is kept.
        operand: Its gradient.
        bucket: The number of the bucket that holds its state.
        segment: Its stretch of that.
        is_home: Whether parameter and gradient themselves are its stretches of the bucket.
        pointers: For each of ``ROLES`` the address of the first element, 0 where there is none.
    """

    index: int
    label: str
    group: int
    device: Device
    format: Format
    rule: Rule
    master: bool
    average: bool
    operand: Operand
    bucket: int
    segment: Segment
    is_home: bool
    pointers: tuple[int, ...]


@dataclass(frozen=True)
class Machine:
    """What the planner must know of a device.

    Attributes:
        multiprocessors: How many a GPU has; threads of a CPU.
        policy: How the kernels are launched there.
    """

    multiprocessors: int
    policy: Policy
