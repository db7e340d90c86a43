"""The streams of a kernel: the arrays that it reads and writes, each under its role.

A kernel's arguments, its pointers in a table, the bytes that it moves, and what an update loads and stores follow from them. How a stream's
elements lie in memory no rule knows: each target has a load and a store for each storage, by its name.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpu_adam.dtypes import Format

from .abi import ROLES

VALUES = tuple(role for role in ROLES if role != "master")
"""The numbers of one element while it is updated: a master copy is the parameter itself."""


@dataclass(frozen=True)
class Storage:
    """How one stream lies in memory.

    Attributes:
        name: What its loads and stores go by.
        bits: Bits of one element.
    """

    name: str
    bits: int

    @classmethod
    def of(cls, format: Format) -> Storage:
        """Elements of a format, one after the other."""
        return cls(format.name, 8 * format.itemsize)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.bits // 8


@dataclass(frozen=True)
class Stream:
    """One array that a kernel reads or writes.

    Attributes:
        role: One of ``ROLES``.
        storage: How it lies in memory.
        read: Whether it is read.
        written: Whether it is written.
    """

    role: str
    storage: Storage
    read: bool
    written: bool

    @property
    def row(self) -> int:
        """Its place among a kernel's pointers, and its row in a table."""
        return ROLES.index(self.role)

    @property
    def value(self) -> int:
        """Which of ``VALUES`` it holds."""
        return VALUES.index("param" if self.role == "master" else self.role)

    @property
    def place(self) -> int:
        """Which of an element's three places it counts by: the parameter's own, the gradient's own, or that of all which is kept."""
        return {"param": 0, "grad": 1}.get(self.role, 2)
