"""Elements as they lie in memory, and the numbers that an update computes with, in LLVM: one case for each storage, by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .access import DOUBLE, FLOAT, HALF, I16, I32

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format

WORDS = {"float64": DOUBLE, "float32": FLOAT, "float16": I16, "bfloat16": I16}
"""What an element is loaded as."""


def from_memory(builder: Any, element: Any, stored: str, working: Format) -> Any:
    """An element that was loaded, widened exactly, or rounded once if the working format is narrower."""
    if stored == "bfloat16":
        # They are the upper half of a float32.
        element = builder.bitcast(builder.shl(builder.zext(element, I32), I32(16)), FLOAT)
    elif stored == "float16":
        element = builder.fpext(builder.bitcast(element, HALF), FLOAT)
    target = WORDS[working.name]
    if element.type == target:
        return element
    return builder.fpext(element, target) if target is DOUBLE else builder.fptrunc(element, target)


def to_memory(builder: Any, value: Any, stored: str) -> Any:
    """A number of the working format, rounded once to what is stored."""
    if stored == "bfloat16":
        return _to_bfloat16(builder, value)
    if stored == "float16":
        return builder.bitcast(builder.fptrunc(value, HALF), I16)
    target = WORDS[stored]
    return value if value.type == target else builder.fptrunc(value, target)


def _to_bfloat16(builder: Any, value: Any) -> Any:
    """The nearest bfloat16, ties to even; a NaN stays one.

    Adding 0x7fff, and 1 more where the kept half is odd, carries into the kept half exactly when rounding up is due, and past the
    largest number into infinity. A NaN could be carried into infinity or zero, so it is cut and made quiet instead. Integers and not
    the conversion instruction, which begins with sm_80.
    """
    bits = builder.bitcast(value, I32)
    kept = builder.lshr(bits, I32(16))
    odd = builder.and_(kept, I32(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, I32(0x7FFF))), I32(16))
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(is_nan, builder.or_(kept, I32(0x40)), rounded), I16)
