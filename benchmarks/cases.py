"""What is measured, as data: lists of shapes in a format, the optimizer, and what a step does beyond it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, Protocol, TypeVar

from .rules import RULES

Shape = tuple[int, ...]
Variant = Literal["plain", "clip", "average", "scale", "rows", "absent"]

BYTES: dict[Variant, int] = {"plain": 28, "clip": 32, "average": 36, "scale": 32, "rows": 28, "absent": 28}
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
            gradients of some rows only; with ``"absent"`` some tensors have none, others in each step.
        rows: With ``"rows"``, how many rows the gradient has.
        absent: With ``"absent"``, how many tensors of one size have no gradient.
        optimizer: Whose step it is, as `RULES` calls it. Only Adam's is measured in other formats than float32, and with additions.
        gradients: ``"bound"`` where every step finds the same arrays, NumPy's for `GpuAdam` and torch's for torch; ``"new"`` where all
            have torch tensors, and each step other gradients, as in a training loop: see `training`.
    """

    name: str
    kind: str
    shapes: tuple[Shape, ...]
    format: str = "float32"
    variant: Variant = "plain"
    rows: int = 0
    optimizer: str = "adam"
    absent: int = 0
    gradients: Literal["bound", "new"] = "bound"

    @property
    def elements(self) -> int:
        """Parameters in all."""
        return sum(map(prod, self.shapes))

    @property
    def updated(self) -> int:
        """Parameters that a step changes."""
        if self.variant == "rows":
            return self.rows * prod(self.shapes[0][1:])
        return self.elements - self.absent * prod(self.shapes[0])

    @property
    def ideal_bytes(self) -> int:
        """Bytes that a step has to move."""
        fewer = RULES["adam"].states - RULES[self.optimizer].states
        wide = 2 if self.format == "float64" else 1
        return wide * (BYTES[self.variant] - 8 * fewer) * self.updated


def gpt2(width: int) -> Iterator[Shape]:
    """GPT-2: 12 blocks of a width, a vocabulary of 50,257, a context of 1,024; the output shares the embedding. 124M has width 768."""
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


def llama_7b(layers: int) -> Iterator[Shape]:
    """The shapes of Llama-7B: width 4,096, a vocabulary of 32,000, blocks of 4 + 3 matrices and 2 norms."""
    width, inner, vocabulary = 4096, 11008, 32000
    yield (vocabulary, width)
    for _ in range(layers):
        yield from ((width, width),) * 4
        yield from ((inner, width), (inner, width), (width, inner))
        yield from ((width,), (width,))
    yield (width,)
    yield (vocabulary, width)


def size_name(elements: int) -> str:
    """A power of two in binary units, such as ``"16Mi"``."""
    for unit, exponent in (("Mi", 20), ("Ki", 10)):
        if elements >> exponent:
            return f"{elements >> exponent}{unit}"
    return str(elements)


def single(exponent: int, format: str = "float32") -> Case:
    """One tensor of a power of two."""
    suffix = "" if format == "float32" else f"-{format}"
    return Case(f"single-{size_name(1 << exponent)}{suffix}", "single", ((1 << exponent,),), format)


def equal(name: str, count: int, size: int) -> Case:
    """Many tensors of one size."""
    return Case(name, "list", ((size,),) * count)


def in_format(format: str, case: Case) -> Case:
    """The same in another format."""
    return replace(case, name=f"{case.name}-{format}", format=format)


def added(variant: Variant, case: Case) -> Case:
    """The same with a step that does more."""
    return replace(case, name=f"{variant}-{case.name}", variant=variant)


def of_rows(rows: int, height: int, width: int) -> Case:
    """Some rows of an embedding."""
    return Case(f"rows-{height}x{width}", "single", ((height, width),), variant="rows", rows=rows)


GPT2, RESNET = Case("gpt2-124m", "list", tuple(gpt2(768))), Case("resnet50", "list", tuple(resnet50()))

# ---- On a CPU -----------------------------------------------------------------------------------------------------------------------


def _others(*cases: Case) -> Iterator[Case]:
    """Cases of every optimizer but Adam."""
    for optimizer in RULES:
        if optimizer != "adam":
            yield from (replace(case, name=f"{optimizer}-{case.name}", optimizer=optimizer) for case in cases)


_THOUSAND, _LARGE = equal("thousand", 1000, 1000), single(24)
_LISTS = (_THOUSAND, GPT2, RESNET)

CASES = (
    *(single(exponent) for exponent in range(10, 27, 2)),
    *_LISTS,
    single(24, "bfloat16"),
    in_format("bfloat16", _THOUSAND),
    in_format("bfloat16", GPT2),
    *(added("clip", case) for case in (_LARGE, *_LISTS)),
    *(added("average", case) for case in (_LARGE, _THOUSAND)),
    *(added("scale", case) for case in (_LARGE, _THOUSAND)),
    of_rows(1_000, 100_000, 256),
    *_others(_LARGE, _THOUSAND),
)

_HUNDRED = equal("hundred", 100, 10)

QUICK = (
    single(10),
    single(12),
    _HUNDRED,
    single(12, "bfloat16"),
    added("clip", single(10)),
    added("average", single(10)),
    added("scale", single(10)),
    of_rows(10, 100, 16),
    *_others(single(10), _HUNDRED),
)
"""For ``--quick``: everything runs, and nothing takes long or means much."""

# ---- On a GPU, in the order of their importance ----------------------------------------------------------------------------------------

LLAMA_LAYERS = 32
CONTENDER_BYTES = 20
"""Bytes of an element that a contender needs at most: parameter, gradient, two states, a master copy."""

LARGE = 1 << 27
"""Elements from which on only the main contenders are measured: each takes gigabytes, and seconds to be set up."""

MOST_AT_ONCE, MOST_LARGE = 16, 5
"""Contenders of a case that are there at once, and of a large one; the limit's copy counts as one."""

MOST_LLAMA = 1 << 29
"""Elements of the Llama-like list at most, however much memory there is: bringing them to the device takes seconds."""


def llama_scaled(memory: int) -> Case:
    """As many of Llama's layers as the memory holds for all contenders at once."""
    lists = {n: Case("", "list", tuple(llama_7b(n))) for n in range(1, LLAMA_LAYERS + 1)}
    layers = max((n for n, case in lists.items() if case.elements <= MOST_LLAMA and fits(case, memory)), default=1)
    return Case(f"llama-{layers}-layers-bfloat16", "list", tuple(llama_7b(layers)), "bfloat16")


def fits(case: Case, memory: int) -> bool:
    """Whether all contenders of a case fit into so many bytes at once."""
    return case.elements * CONTENDER_BYTES * (MOST_LARGE if case.elements >= LARGE else MOST_AT_ONCE) <= memory


SMALL = Case("small-model", "list", ((64, 256), (256,), (256, 128), (128,), (128, 10), (10,)))
"""The network that the digits are recognised by."""


def gpu_cases(memory: int) -> list[Case]:
    """All that fit into so many bytes.

    Args:
        memory: Bytes that are free on the device.
    """
    many, most = equal("3000x3500", 3000, 3500), equal("10000x100", 10000, 100)
    found = [
        single(28), GPT2, many, SMALL, most, single(24), added("clip", single(26)), single(20), single(10),
        single(26, "bfloat16"), added("scale", single(24)), added("clip", GPT2), single(26), single(22), single(18), single(14),
        RESNET, added("clip", many), in_format("bfloat16", GPT2), single(12), single(16), llama_scaled(memory),
    ]  # fmt: skip
    return [case for case in found if fits(case, memory)]


DRY = (single(10), SMALL, single(10, "bfloat16"), added("clip", single(10)), added("scale", single(10)))
"""For a dry run."""

# ---- Of either ------------------------------------------------------------------------------------------------------------------------


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
