"""What is measured, as data: lists of shapes in a format, the optimizer, and what a step does beyond it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, Protocol, TypeVar

from .rules import RULES

Shape = tuple[int, ...]
Variant = Literal["plain", "clip", "average", "scale", "rows"]

BYTES: dict[Variant, int] = {"plain": 28, "clip": 32, "average": 36, "scale": 32, "rows": 28}
"""Bytes that a step of Adam has to move for each element.

p g m v are read and p m v written, or with master weights g master m v read and p master m v written. A norm, and the search for
infinities, reads g once more; an average is read and written. Optimizers with fewer states than Adam move 8 less for each.
"""


@dataclass(frozen=True)
class Case:
    """One list of parameters.

    Attributes:
        name: What ``--cases`` goes by.
        kind: ``"single"`` for one tensor, ``"list"`` for many.
        shapes: Their shapes.
        format: ``"float32"`` or ``"float64"``, or ``"bfloat16"`` with float32 master weights.
        variant: What a step does: ``"plain"`` is the optimizer alone; ``"clip"`` clips the norm; ``"average"`` keeps an exponential average
            of the parameters; ``"scale"`` divides the gradients by a loss scale and skips steps that are not finite; ``"rows"`` has
            gradients of some rows only.
        rows: With ``"rows"``, how many rows the gradient has.
        optimizer: Whose step it is, as `RULES` calls it. Only Adam's is measured in other formats than float32, and with additions.
    """

    name: str
    kind: str
    shapes: tuple[Shape, ...]
    format: str = "float32"
    variant: Variant = "plain"
    rows: int = 0
    optimizer: str = "adam"

    @property
    def elements(self) -> int:
        """Parameters in all."""
        return sum(map(prod, self.shapes))

    @property
    def updated(self) -> int:
        """Parameters that a step changes."""
        return self.rows * prod(self.shapes[0][1:]) if self.variant == "rows" else self.elements

    @property
    def ideal_bytes(self) -> int:
        """Bytes that a step has to move."""
        fewer = RULES["adam"].states - RULES[self.optimizer].states
        wide = 2 if self.format == "float64" else 1
        return wide * (BYTES[self.variant] - 8 * fewer) * self.updated


def gpt2_124m() -> Iterator[Shape]:
    """GPT-2 124M: 12 blocks of width 768, a vocabulary of 50,257, a context of 1,024; the output shares the embedding."""
    width = 768
    yield (50257, width)
    yield (1024, width)
    for _ in range(12):
        yield from ((width,), (width,))
        yield from ((width, 3 * width), (3 * width,), (width, width), (width,))
        yield from ((width,), (width,))
        yield from ((width, 4 * width), (4 * width,), (4 * width, width), (width,))
    yield from ((width,), (width,))


def resnet50() -> Iterator[Shape]:
    """ResNet-50: bottlenecks 3, 4, 6, 3, each convolution followed by a normalization's weight and bias; 1,000 classes."""

    def convolution(out: int, inner: int, size: int) -> Iterator[Shape]:
        yield from ((out, inner, size, size), (out,), (out,))

    yield from convolution(64, 3, 7)
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            yield from convolution(width, inputs, 1)
            yield from convolution(width, width, 3)
            yield from convolution(4 * width, width, 1)
            if block == 0:
                yield from convolution(4 * width, inputs, 1)
            inputs = 4 * width
    yield from ((1000, inputs), (1000,))


def size_name(elements: int) -> str:
    """A power of two in binary units, such as ``"16Mi"``."""
    for unit, exponent in (("Mi", 20), ("Ki", 10)):
        if elements >> exponent:
            return f"{elements >> exponent}{unit}"
    return str(elements)


def _single(elements: int, format: str = "float32") -> Case:
    suffix = "" if format == "float32" else f"-{format}"
    return Case(f"single-{size_name(elements)}{suffix}", "single", ((elements,),), format)


def _also(variant: Variant, case: Case) -> Case:
    return replace(case, name=f"{variant}-{case.name}", variant=variant)


def _others(*cases: Case) -> Iterator[Case]:
    """Cases of every optimizer but Adam."""
    for optimizer in RULES:
        if optimizer != "adam":
            yield from (replace(case, name=f"{optimizer}-{case.name}", optimizer=optimizer) for case in cases)


def _rows(rows: int, height: int, width: int) -> Case:
    """Some rows of an embedding."""
    return Case(f"rows-{height}x{width}", "single", ((height, width),), variant="rows", rows=rows)


_THOUSAND = ((1000,),) * 1000
_GPT2, _RESNET = tuple(gpt2_124m()), tuple(resnet50())
_LISTS = (Case("thousand", "list", _THOUSAND), Case("gpt2-124m", "list", _GPT2), Case("resnet50", "list", _RESNET))
_LARGE = _single(1 << 24)

CASES = (
    *(_single(1 << exponent) for exponent in range(10, 27, 2)),
    *_LISTS,
    _single(1 << 24, "bfloat16"),
    Case("thousand-bfloat16", "list", _THOUSAND, "bfloat16"),
    Case("gpt2-124m-bfloat16", "list", _GPT2, "bfloat16"),
    *(_also("clip", case) for case in (_LARGE, *_LISTS)),
    *(_also("average", case) for case in (_LARGE, _LISTS[0])),
    *(_also("scale", case) for case in (_LARGE, _LISTS[0])),
    _rows(1_000, 100_000, 256),
    *_others(_LARGE, _LISTS[0]),
)

_HUNDRED = Case("hundred", "list", ((10,),) * 100)

QUICK = (
    _single(1 << 10),
    _single(1 << 12),
    _HUNDRED,
    _single(1 << 12, "bfloat16"),
    _also("clip", _single(1 << 10)),
    _also("average", _single(1 << 10)),
    _also("scale", _single(1 << 10)),
    _rows(10, 100, 16),
    *_others(_single(1 << 10), _HUNDRED),
)
"""For ``--quick``: everything runs, and nothing takes long or means much."""


class HasName(Protocol):
    """What goes by a name."""

    @property
    def name(self) -> str:
        """The name."""


Named = TypeVar("Named", bound=HasName)


def chosen(given: Sequence[Named], names: Sequence[str] | None, what: str = "case") -> list[Named]:
    """Those of these names, or all.

    Raises:
        ValueError: For a name that none has; the message says ``what`` they are and lists the names.
    """
    if names is None:
        return list(given)
    unknown = sorted(set(names) - {one.name for one in given})
    if unknown:
        raise ValueError(f"no {what} is called {', '.join(unknown)}: use {', '.join(one.name for one in given)}")
    return [one for one in given if one.name in names]
