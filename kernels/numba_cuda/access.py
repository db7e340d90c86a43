"""One access of device memory in LLVM: some words behind an address, and what the caches are told of them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

_GLOBAL = 1
"""The address space of device memory: ``ld.global`` in place of a load that first finds out where it points."""
I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
HALF, FLOAT, DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()

MEMORY = "~{memory}"
"""Ends the constraints of inline PTX: an ordinary one beside it may be of the same memory, as of a parameter that is its own gradient."""

_OF_WORDS = {I16: (2, "h", "u16"), I32: (4, "r", "u32"), FLOAT: (4, "f", "f32"), DOUBLE: (8, "d", "f64")}
"""By the type of a word: its bytes, the letter of its registers in inline PTX, and its name there."""


def pointer(builder: Any, address: Any, element: Any) -> Any:
    """An address as a pointer to elements of a type in device memory."""
    return builder.inttoptr(address, ir.PointerType(element, _GLOBAL))


def read(builder: Any, address: Any, offset: int, word: Any, count: int, streamed: bool) -> list[Any]:
    """``count`` words of a type, ``offset`` bytes behind an address, in one access that is aligned to its size.

    If it is ``streamed``, they are to leave the caches first. That is said in PTX itself, since NVVM takes LLVM's way to say it,
    ``nontemporal``, and forgets it.
    """
    itemsize, letter, name = _OF_WORDS[word]
    if not streamed:
        kind = word if count == 1 else ir.VectorType(word, count)
        found = builder.load(pointer(builder, builder.add(address, I64(offset)), kind), align=itemsize * count)
        return [found] if count == 1 else [builder.extract_element(found, I32(k)) for k in range(count)]
    kind = word if count == 1 else ir.LiteralStructType([word] * count)
    text = f"ld.global.cs{_registers(name, 0, count)}, [${count}+{offset}];"
    constraints = ",".join([f"={letter}"] * count + ["l", MEMORY])
    found = builder.asm(ir.FunctionType(kind, [I64]), text, constraints, [address], side_effect=True)
    return [found] if count == 1 else [builder.extract_value(found, k) for k in range(count)]


def write(builder: Any, address: Any, offset: int, words: list[Any], streamed: bool) -> None:
    """The way back of `read`."""
    word, count = words[0].type, len(words)
    itemsize, letter, name = _OF_WORDS[word]
    if not streamed:
        value = words[0]
        if count > 1:
            value = ir.Constant(ir.VectorType(word, count), ir.Undefined)
            for k, one in enumerate(words):
                value = builder.insert_element(value, one, I32(k))
        builder.store(value, pointer(builder, builder.add(address, I64(offset)), value.type), align=itemsize * count)
        return
    form, _, registers = _registers(name, 1, count).partition(" ")
    text = f"st.global.cs{form} [$0+{offset}], {registers};"
    kind = ir.FunctionType(ir.VoidType(), [I64, *[word] * count])
    builder.asm(kind, text, ",".join(["l"] + [letter] * count + [MEMORY]), [address, *words], side_effect=True)


def _registers(name: str, first: int, count: int) -> str:
    """What follows an access's name in PTX: its form, and its operands from ``$first`` on."""
    operands = ", ".join(f"${first + k}" for k in range(count))
    return f".{name} {operands}" if count == 1 else f".v{count}.{name} {{{operands}}}"
