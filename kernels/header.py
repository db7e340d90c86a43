"""``abi.cuh``: in CUDA C++ the numbers that both languages agree on, which are spelled, and explained, in Python alone.

A number has the same name in both: ``ROW_WORDS`` is ``kRowWords``. Those of `gpu_adam.kernels.row`, `gpu_adam.kernels.abi`, the formats and
the rows of tables lie in namespace ``gpu_adam``; a rule's own in a struct, of ``Adam`` in ``AdamNumbers``, which the rule derives from.

No file has the text: compilers are handed it beside the other sources, and ``python -m gpu_adam.kernels.header`` prints it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from types import ModuleType

from gpu_adam.dtypes import FORMATS

from . import abi, row
from .rules import shipped

NAME = "abi.cuh"
"""The name that it is included by."""

_HEAD = """\
// The numbers that both languages agree on, written by kernels/header.py. What each of them means is said where Python has it.

#pragma once

namespace gpu_adam {"""

_FOOT = """
}  // namespace gpu_adam
"""


@cache
def text() -> str:
    """The header."""
    sections = {
        "row.py": _numbers(row),
        "abi.py": _numbers(abi, besides=row),
        "The formats, by their places in gpu_adam.dtypes.FORMATS.": _places(format.name for format in FORMATS),
        "The rows of pointers in a table of chunks.": _places(f"{role}_row" for role in abi.ROLES),
    }
    parts = [_HEAD]
    for title, numbers in sections.items():
        parts += ["", f"// {title}", *_definitions(numbers)]
    for struct, module in _modules_of_rules().items():
        lines = _definitions(_numbers(module, besides=abi), "static ")
        parts += ["", f"struct {struct}Numbers {{", *(f"  {line}" for line in lines), "};"]
    return "\n".join((*parts, _FOOT))


def cpp_name(name: str) -> str:
    """What a number is called in C++.

    >>> cpp_name("ROW_WORDS"), cpp_name("OWN_0"), cpp_name("bfloat16")
    ('kRowWords', 'kOwn0', 'kBfloat16')
    """
    return "k" + "".join(word.capitalize() for word in name.lower().split("_"))


def _numbers(module: ModuleType, besides: ModuleType | None = None) -> Iterator[tuple[str, int | float]]:
    """The constants of a module that are numbers, without those that another one has too."""
    for name, value in vars(module).items():
        if name.isupper() and type(value) in (int, float) and getattr(besides, name, None) != value:
            yield name, value


def _places(names: Iterable[str]) -> Iterator[tuple[str, int]]:
    return ((name, place) for place, name in enumerate(names))


def _modules_of_rules() -> dict[str, ModuleType]:
    """For each type, or template, of the rules in C++ the Python file of the rule."""
    return {
        rule.cuda.partition("<")[0]: sys.modules[rule.coefficients.__module__]
        for rule in shipped().values()
        if rule.cuda
    }


def _definitions(numbers: Iterable[tuple[str, int | float]], storage: str = "") -> Iterator[str]:
    """The lines that define them: integers as an enumeration, because constants would take memory in each binary."""
    numbers = list(numbers)
    yield "enum : int {"
    yield from (f"  {cpp_name(name)} = {value}," for name, value in numbers if isinstance(value, int))
    yield "};"
    # In hexadecimal a float64 is exact.
    for name, value in numbers:
        if isinstance(value, float):
            yield f"{storage}constexpr double {cpp_name(name)} = {value.hex()};"


if __name__ == "__main__":
    print(text(), end="")
