"""What the tensors of an update are made of."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_adam.dtypes import FLOAT32, Format
from tests.support.shipped import RULES


@dataclass(frozen=True)
class Kind:
    """The formats of a tensor, and what is kept beside it."""

    param: Format = FLOAT32
    grad: Format = FLOAT32
    master: bool = False
    rule: str = "adam"
    average: bool = False

    @property
    def states(self) -> int:
        return len(RULES[self.rule].states)

    @property
    def working(self) -> Format:
        return self.param.working

    def __str__(self) -> str:
        master, average = "-master" if self.master else "", "-average" if self.average else ""
        return f"{self.rule}-{self.param}-{self.grad}{master}{average}"
