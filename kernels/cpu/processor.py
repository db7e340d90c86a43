"""What the processor that Numba compiles for can do: by that the kernels choose their instructions.

LLVM is asked to compile an operation. Only LLVM knows what the name of a processor and a list of features amount to, those of the
environment variables ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` too. For what there is no instruction for it calls a function of the
C library or of the compiler's own. The latter's need not be in the process, which then ends there and then; the former's are slow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

_WORD, _HALF, _FLOAT = ir.IntType(16), ir.HalfType(), ir.FloatType()


@functools.cache
def converts_float16(codegen: Any) -> bool:
    """Whether there are instructions from float16 to float32 and back: on x86-64 F16C's."""

    def emit(builder: Any, words: Any, numbers: Any) -> None:
        builder.store(builder.fpext(builder.bitcast(builder.load(words), _HALF), _FLOAT), numbers)
        builder.store(builder.bitcast(builder.fptrunc(builder.load(numbers), _HALF), _WORD), words)

    return not _calls(codegen, emit, ("__extendhfsf2", "__truncsfhf2", "__gnu_h2f_ieee", "__gnu_f2h_ieee"))


@functools.cache
def fuses(codegen: Any) -> bool:
    """Whether there is a fused multiply-add."""

    def emit(builder: Any, words: Any, numbers: Any) -> None:
        number = builder.load(numbers)
        builder.store(builder.fma(number, number, number), numbers)

    return not _calls(codegen, emit, ("fmaf",))


def _calls(codegen: Any, emit: Callable[[Any, Any, Any], None], functions: tuple[str, ...]) -> bool:
    """Whether the target's assembly of what ``emit`` emits, with pointers to an int16 and a float32, names one of these functions."""
    module = ir.Module()
    module.triple = llvm.get_process_triple()
    signature = ir.FunctionType(ir.VoidType(), [_WORD.as_pointer(), _FLOAT.as_pointer()])
    function = ir.Function(module, signature, "probe")
    builder = ir.IRBuilder(function.append_basic_block())
    emit(builder, *function.args)
    builder.ret_void()
    assembly = codegen._tm.emit_assembly(llvm.parse_assembly(str(module)))
    return any(name in assembly for name in functions)
