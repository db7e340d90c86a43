"""A thread's floating-point mode, which libraries change (``torch.set_flush_denormal``) and which would change the bits.

It is the register MXCSR of x86-64 and FPCR of aarch64. For other processors nothing is done.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_MXCSR = 0x1F80
"""As a process starts with it: round to nearest even, subnormals kept, nothing trapped."""

_FPCR = 0
"""The same; and a NaN keeps its payload, and float16 is IEEE's and not Arm's own, which has no infinity."""

_WORD = ir.IntType(32)
_REGISTER = ir.IntType(64)


@intrinsic
def enter_ieee_mode(typingctx):
    """Compute as IEEE 754 says in this thread; returns what `leave_ieee_mode` takes to put the mode back."""

    def codegen(context, builder, signature, args):
        mode = {"x86": _MXCSR, "arm": _FPCR}.get(_processor(builder), 0)
        return _exchange(builder, _REGISTER(mode))

    return types.uint64(), codegen


@intrinsic
def leave_ieee_mode(typingctx, before):
    """Put back the mode that there was before `enter_ieee_mode`."""

    def codegen(context, builder, signature, args):
        _exchange(builder, args[0])
        return context.get_dummy_value()

    return types.none(types.uint64), codegen


def _processor(builder: Any) -> str:
    """``"x86"``, ``"arm"`` or something else: what the module is compiled for, which need not be what compiles it."""
    name = builder.module.triple.partition("-")[0]
    if name in ("x86_64", "amd64"):
        return "x86"
    return "arm" if name.startswith(("aarch64", "arm64")) else name


def _exchange(builder: Any, mode: Any) -> Any:
    """Emit: write the register, and return what was in it."""
    processor = _processor(builder)
    if processor == "x86":
        place = cgutils.alloca_once(builder, _WORD)
        pointer = builder.bitcast(place, cgutils.voidptr_t)
        _call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), pointer)
        before = builder.load(place)
        builder.store(builder.trunc(mode, _WORD), place)
        _call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), pointer)
        return builder.zext(before, _REGISTER)
    if processor == "arm":
        before = _call(builder, "llvm.aarch64.get.fpcr", _REGISTER)
        _call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), mode)
        return before
    return _REGISTER(0)


def _call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    signature = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), args)
