"""What is measured on a GPU, as data, in the order of its importance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..cases import Case, Shape, Variant, gpt2_124m, resnet50, size_name

LLAMA_LAYERS = 32
CONTENDER_BYTES = 20
"""Bytes of an element that a contender needs at most: parameter, gradient, two states, a master copy."""

LARGE = 1 << 27
"""Elements from which on only the main contenders are measured: each takes gigabytes, and seconds to be set up."""

MOST_AT_ONCE, MOST_LARGE = 16, 5
"""Contenders of a case that are there at once, and of a large one; the limit's copy counts as one."""

MOST_LLAMA = 1 << 29
"""Elements of the Llama-like list at most, however much memory there is: bringing them to the device takes seconds."""


def llama_7b(layers: int = LLAMA_LAYERS) -> Iterator[Shape]:
    """The shapes of Llama-7B: width 4,096, a vocabulary of 32,000, blocks of 4 + 3 matrices and 2 norms."""
    width, inner, vocabulary = 4096, 11008, 32000
    yield (vocabulary, width)
    for _ in range(layers):
        yield from ((width, width),) * 4
        yield from ((inner, width), (inner, width), (width, inner))
        yield from ((width,), (width,))
    yield (width,)
    yield (vocabulary, width)


def llama_scaled(memory: int) -> Case:
    """As many of Llama's layers as the memory holds for all contenders at once."""
    lists = {n: Case("", "list", tuple(llama_7b(n))) for n in range(1, LLAMA_LAYERS + 1)}
    layers = max((n for n, case in lists.items() if case.elements <= MOST_LLAMA and fits(case, memory)), default=1)
    return Case(f"llama-{layers}-layers-bfloat16", "list", tuple(llama_7b(layers)), "bfloat16")


def fits(case: Case, memory: int) -> bool:
    """Whether all contenders of a case fit into so many bytes at once."""
    return case.elements * CONTENDER_BYTES * (MOST_LARGE if case.elements >= LARGE else MOST_AT_ONCE) <= memory


def single(exponent: int, format: str = "float32") -> Case:
    """One tensor of a power of two."""
    suffix = "" if format == "float32" else f"-{format}"
    return Case(f"single-{size_name(1 << exponent)}{suffix}", "single", ((1 << exponent,),), format)


def added(variant: Variant, case: Case) -> Case:
    """The same with a step that does more."""
    return replace(case, name=f"{variant}-{case.name}", variant=variant)


_GPT2 = Case("gpt2-124m", "list", tuple(gpt2_124m()))
_MANY = Case("3000x3500", "list", ((3500,),) * 3000)
_MOST = Case("10000x100", "list", ((100,),) * 10000)
SMALL = Case("small-model", "list", ((64, 256), (256,), (256, 128), (128,), (128, 10), (10,)))
"""The network that the digits are recognised by."""


def cases(memory: int) -> list[Case]:
    """All that fit into so many bytes.

    Args:
        memory: Bytes that are free on the device.
    """
    found = [
        single(28), _GPT2, _MANY, SMALL, _MOST, single(24), added("clip", single(26)), single(20), single(10),
        single(26, "bfloat16"), added("scale", single(24)), added("clip", _GPT2), single(26), single(22), single(18), single(14),
        Case("resnet50", "list", tuple(resnet50())), added("clip", _MANY), replace(_GPT2, name="gpt2-124m-bfloat16", format="bfloat16"),
        single(12), single(16), llama_scaled(memory),
    ]  # fmt: skip
    return [case for case in found if fits(case, memory)]


DRY = (single(10), SMALL, single(10, "bfloat16"), added("clip", single(10)), added("scale", single(10)))
