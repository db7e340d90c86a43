"""The CPU kernels: the same families as on the GPU, over the same tables, compiled by Numba for the vector units.

A kernel is made for one specialization. It finds the elements and hands contiguous stretches to `span`, the one loop that loads,
calls the rule and stores; the strided family loops by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from gpu_adam.layout import MAX_DIMS
from gpu_adam.plan import ROLES, ROW_WORDS, WALK_WORDS

from .cpu_intrinsics import (
    NoAliasCompiler,
    array_at,
    float_mode,
    fma,
    round_bfloat16,
    round_float16,
    widen_bfloat16,
    widen_float16,
)
from .rules import RULES, decay

if TYPE_CHECKING:
    from gpu_adam.formats import Format
    from gpu_adam.plan import Specialization


def _jit(kind: Specialization, **options: Any) -> Callable[..., Any]:
    """Numba's decorator for a function of one specialization's kernel.

    With NumPy's error model a division by zero gives what IEEE 754 says. Inlining is left to LLVM. The function is named after the
    specialization, because Numba makes symbols out of names and a counter: kernels that two processes compiled and a third loads from
    the disk would otherwise share symbols, and one of them run the other's code.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        function.__qualname__ = f"{kind.name}.{function.__name__}"
        return numba.njit(error_model="numpy", **options)(function)

    return decorate


_NROLES, _MAX_DIMS, _WALK_WORDS = len(ROLES), MAX_DIMS, WALK_WORDS
_IEEE = np.uint32(0x1F80)
"""MXCSR as a process starts with it: round to nearest even, subnormals kept, nothing trapped."""
_STORAGE = {"float64": np.float64, "float32": np.float32, "float16": np.uint16, "bfloat16": np.uint16}


@numba.njit
def _to_float32(x):
    return np.float32(x)


@numba.njit
def _to_float64(x):
    return np.float64(x)


def _loader(kind: Specialization, format: Format) -> Callable[..., Any]:
    """From a stored element to the working format."""
    convert = {"float32": _to_float32, "float64": _to_float64}[kind.working.name]
    widen = {"float16": widen_float16, "bfloat16": widen_bfloat16}.get(format.name)
    if widen is None:
        return convert

    def load(word):
        return convert(widen(word))

    load.__name__ += f"_{format}"
    return _jit(kind)(load)


def _storer(format: Format) -> Callable[..., Any]:
    """From the working format to the stored element, rounded once."""
    rounders = {"float64": _to_float64, "float32": _to_float32, "float16": round_float16, "bfloat16": round_bfloat16}
    return rounders[format.name]


def make_kernel(kind: Specialization) -> Any:
    """The kernel of a specialization, not yet compiled.

    Flat: ``(param, grad, state0, state1, state2, master, begin, end, row)`` with addresses as int64, updates ``[begin, end)``.
    Multi-tensor and strided: ``(words, segments, chunks, chunk, first, last, rows)`` updates the chunks ``[first, last)``.
    """
    element = _make_element(kind)
    if kind.family == "strided":
        return _make_strided(kind, element)
    span = _make_span(kind, element)
    return _make_flat(kind, span) if kind.family == "flat" else _make_multi_tensor(kind, span)


def _make_element(kind: Specialization) -> Any:
    """One element's update, in place: ``(p, g, s0, s1, s2, w, i, j, k, c)`` with ``i, j, k`` its places in param, grad and state."""
    before = _jit(kind)(decay(fma, math.sqrt))
    rule = _jit(kind)(RULES[kind.rule].make(fma, math.sqrt))
    load_param, load_grad = _loader(kind, kind.param), _loader(kind, kind.grad)
    store_param = _storer(kind.param)
    states, master = kind.states, kind.master

    @_jit(kind)
    def element(p, g, s0, s1, s2, w, i, j, k, c):
        theta = w[k] if master else load_param(p[i])
        theta, gradient = before(theta, load_grad(g[j]), c)
        # A state that the rule lacks is handed some number of the right type; the compiler drops it.
        x0 = s0[k] if states > 0 else gradient
        x1 = s1[k] if states > 1 else gradient
        x2 = s2[k] if states > 2 else gradient
        theta, x0, x1, x2 = rule(theta, gradient, x0, x1, x2, c)
        p[i] = store_param(theta)
        if master:
            w[k] = theta
        if states > 0:
            s0[k] = x0
        if states > 1:
            s1[k] = x1
        if states > 2:
            s2[k] = x2

    return element


@numba.njit
def _coefficients(row):
    """A row as a tuple: registers, which no store through a stream can be thought to change."""
    return (
        row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7],
        row[8], row[9], row[10], row[11], row[12], row[13], row[14], row[15],
    )  # fmt: skip


assert ROW_WORDS == 16


def _make_span(kind: Specialization, element: Any) -> Any:
    param, grad, working = _STORAGE[kind.param.name], _STORAGE[kind.grad.name], _STORAGE[kind.working.name]
    param_bytes, grad_bytes, working_bytes = kind.param.itemsize, kind.grad.itemsize, kind.working.itemsize

    @_jit(kind, pipeline_class=NoAliasCompiler)
    def loop(p, g, s0, s1, s2, w, c):
        for i in range(p.size):
            element(p, g, s0, s1, s2, w, i, i, i, c)

    @_jit(kind)
    def span(p, g, s0, s1, s2, w, begin, end, row):
        n = end - begin
        loop(
            array_at(p + begin * param_bytes, n, param),
            array_at(g + begin * grad_bytes, n, grad),
            array_at(s0 + begin * working_bytes, n, working),
            array_at(s1 + begin * working_bytes, n, working),
            array_at(s2 + begin * working_bytes, n, working),
            array_at(w + begin * working_bytes, n, working),
            _coefficients(row),
        )

    return span


def _make_flat(kind: Specialization, span: Any) -> Any:
    @_jit(kind, nogil=True)  # so that threads of any kind can run side by side
    def flat(p, g, s0, s1, s2, w, begin, end, row):
        before = float_mode(_IEEE)
        span(p, g, s0, s1, s2, w, begin, end, row)
        float_mode(before)

    return flat


def _make_multi_tensor(kind: Specialization, span: Any) -> Any:
    @_jit(kind, nogil=True)  # so that threads of any kind can run side by side
    def multi_tensor(words, segments, chunks, chunk, first, last, rows):
        before = float_mode(_IEEE)
        after_pointers = _NROLES * segments
        chunk_segments = after_pointers + 3 * segments
        for at in range(chunk_segments + first, chunk_segments + last):
            s = words[at]
            start = words[at + chunks]
            begin = max(start, words[after_pointers + s])
            end = min(start + chunk, words[after_pointers + segments + s])
            row = rows[words[after_pointers + 2 * segments + s]]
            span(
                words[s],
                words[segments + s],
                words[2 * segments + s],
                words[3 * segments + s],
                words[4 * segments + s],
                words[5 * segments + s],
                begin,
                end,
                row,
            )
        float_mode(before)

    return multi_tensor


def _make_strided(kind: Specialization, element: Any) -> Any:
    param, grad, working = _STORAGE[kind.param.name], _STORAGE[kind.grad.name], _STORAGE[kind.working.name]
    param_bytes, grad_bytes = kind.param.itemsize, kind.grad.itemsize

    @_jit(kind)
    def run(p, g, s0, s1, s2, w, begin, end, p_step, g_step, c):
        # Addresses, not indices: an offset may be negative, and Numba would count a negative index from the end.
        for k in range(begin, end):
            element(array_at(p, 1, param), array_at(g, 1, grad), s0, s1, s2, w, 0, 0, k, c)
            p += p_step
            g += g_step

    @_jit(kind, nogil=True)  # so that threads of any kind can run side by side
    def strided(words, segments, chunks, chunk, first, last, rows):
        before = float_mode(_IEEE)
        after_pointers = _NROLES * segments
        chunk_segments = after_pointers + 3 * segments
        walks = chunk_segments + 2 * chunks
        for at in range(chunk_segments + first, chunk_segments + last):
            s = words[at]
            start = words[at + chunks]
            end = min(start + chunk, words[after_pointers + segments + s])
            c = _coefficients(rows[words[after_pointers + 2 * segments + s]])
            s0 = array_at(words[2 * segments + s], end, working)
            s1 = array_at(words[3 * segments + s], end, working)
            s2 = array_at(words[4 * segments + s], end, working)
            w = array_at(words[5 * segments + s], end, working)
            walk = walks + s * _WALK_WORDS
            inner = words[walk] - 1
            length = words[walk + 1 + inner]
            p_step = words[walk + 1 + _MAX_DIMS + inner] * param_bytes
            g_step = words[walk + 1 + 2 * _MAX_DIMS + inner] * grad_bytes
            k = start
            while k < end:
                # One run along the innermost dimension; its first element's coordinates give the addresses.
                stop = min(end, k - k % length + length)
                p, g = words[s] + k % length * p_step, words[segments + s] + k % length * g_step
                rest = k // length
                for d in range(inner - 1, -1, -1):
                    coordinate = rest % words[walk + 1 + d]
                    rest //= words[walk + 1 + d]
                    p += coordinate * words[walk + 1 + _MAX_DIMS + d] * param_bytes
                    g += coordinate * words[walk + 1 + 2 * _MAX_DIMS + d] * grad_bytes
                run(p, g, s0, s1, s2, w, k, stop, p_step, g_step, c)
                k = stop
        float_mode(before)

    return strided


def signature(kind: Specialization) -> tuple[Any, ...]:
    """The argument types of a specialization's kernel."""
    from numba import float32, float64, int64

    working = {"float32": float32, "float64": float64}[kind.working.name]
    if kind.family == "flat":
        return (*(int64,) * (_NROLES + 2), working[::1])
    return (int64[::1], *(int64,) * 5, working[:, ::1])
