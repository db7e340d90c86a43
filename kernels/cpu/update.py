"""The CPU kernels: the same families as on the GPU, over the same tables, compiled by Numba for the vector units.

A kernel is made for one specialization. It finds the elements and hands contiguous stretches to `span`, the one loop that loads,
calls the rule and stores; the strided family loops by itself.
"""

from __future__ import annotations

import functools
import math
from operator import mul
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_adam.kernels.abi import MAX_DIMS, WALK_WORDS
from gpu_adam.kernels.specialization import ROLES

from ..abi import ROW_WORDS, SKIP
from ..rules.rule import average, decay
from ..rules.rule import compiled as made
from .float_mode import enter_ieee_mode, leave_ieee_mode
from .fma import fma
from .intrinsics import LINE, NoAliasCompiler, array_at, prefetch
from .target import AHEAD, STORAGE, entry, jit, loader, storer

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Specialization

    from ..rules.rule import Rule

_NROLES, _MAX_DIMS, _WALK_WORDS = len(ROLES), MAX_DIMS, WALK_WORDS


def make_kernel(kind: Specialization) -> Any:
    """The kernel of a specialization, not yet compiled.

    Flat: ``(param, grad, state0, state1, state2, master, average, begin, end, row)`` with addresses as int64, updates ``[begin, end)``.
    Multi-tensor and strided: ``(words, segments, chunks, chunk, first, last, rows)`` updates the chunks ``[first, last)``.
    Rows: ``(param, …, average, width, indices, first, last, row)`` updates with the gradient's rows ``[first, last)``.
    """
    element = _make_element(kind)
    if kind.family == "strided":
        return _make_strided(kind, element)
    span = _make_span(kind, element)
    make = {"flat": _make_flat, "multi_tensor": _make_multi_tensor, "rows": _make_rows}[kind.family]
    return make(kind, span)


# These, the rule and the element are a loop's body, and a body with a call in it is not vectorised. Where a fused multiply-add is many
# instructions LLVM would find them too long to inline.
_before, _after = jit("all", forceinline=True)(decay(fma, mul)), jit("all", forceinline=True)(average(fma))


@functools.cache
def _make_rule(rule: Rule) -> Any:
    """A rule's own update, which its kernels share."""
    return made(rule, fma, math.sqrt, jit(rule.symbol, forceinline=True))


def _make_element(kind: Specialization) -> Any:
    """One element's update, in place: ``(p, g, s0, s1, s2, w, e, i, j, k, c)`` with ``i, j, k`` its places in param, grad and state."""
    rule = _make_rule(kind.rule)
    load_param, load_grad = (loader(format, kind.working) for format in (kind.param, kind.grad))
    store_param = storer(kind.param)
    states, master, averages = kind.states, kind.master, kind.average

    @jit(kind.name, forceinline=True)
    def element(p, g, s0, s1, s2, w, e, i, j, k, c):
        theta = w[k] if master else load_param(p[i])
        theta, gradient = _before(theta, load_grad(g[j]), c)
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
        if averages:
            e[k] = _after(e[k], theta, c)

    return element


@jit("all")
def _coefficients(row):
    """A row as a tuple: registers, which no store through a stream can be thought to change."""
    return (
        row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7],
        row[8], row[9], row[10], row[11], row[12], row[13], row[14], row[15],
    )  # fmt: skip


assert ROW_WORDS == 16


def _make_span(kind: Specialization, element: Any) -> Any:
    param, grad, working = STORAGE[kind.param.name], STORAGE[kind.grad.name], STORAGE[kind.working.name]
    param_bytes, grad_bytes, working_bytes = kind.param.itemsize, kind.grad.itemsize, kind.working.itemsize

    @jit(kind.name, pipeline_class=NoAliasCompiler)
    def loop(p, g, s0, s1, s2, w, e, c):
        for i in range(p.size):
            element(p, g, s0, s1, s2, w, e, i, i, i, c)

    @jit(kind.name)
    def span(p, g, s0, s1, s2, w, e, begin, end, row):
        n = end - begin
        loop(
            array_at(p + begin * param_bytes, n, param),
            array_at(g + begin * grad_bytes, n, grad),
            array_at(s0 + begin * working_bytes, n, working),
            array_at(s1 + begin * working_bytes, n, working),
            array_at(s2 + begin * working_bytes, n, working),
            array_at(w + begin * working_bytes, n, working),
            array_at(e + begin * working_bytes, n, working),
            _coefficients(row),
        )

    return span


def _make_flat(kind: Specialization, span: Any) -> Any:
    @entry(kind.name)
    def flat(p, g, s0, s1, s2, w, e, begin, end, row):
        if row[SKIP]:
            return
        before = enter_ieee_mode()
        span(p, g, s0, s1, s2, w, e, begin, end, row)
        leave_ieee_mode(before)

    return flat


def _make_multi_tensor(kind: Specialization, span: Any) -> Any:
    @entry(kind.name)
    def multi_tensor(words, segments, chunks, chunk, first, last, rows):
        before = enter_ieee_mode()
        after_pointers = _NROLES * segments
        chunk_segments = after_pointers + 3 * segments
        for at in range(chunk_segments + first, chunk_segments + last):
            s = words[at]
            start = words[at + chunks]
            begin = max(start, words[after_pointers + s])
            end = min(start + chunk, words[after_pointers + segments + s])
            row = rows[words[after_pointers + 2 * segments + s]]
            if row[SKIP]:
                continue
            span(
                words[s],
                words[segments + s],
                words[2 * segments + s],
                words[3 * segments + s],
                words[4 * segments + s],
                words[5 * segments + s],
                words[6 * segments + s],
                begin,
                end,
                row,
            )
        leave_ieee_mode(before)

    return multi_tensor


def _make_strided(kind: Specialization, element: Any) -> Any:
    param, grad, working = STORAGE[kind.param.name], STORAGE[kind.grad.name], STORAGE[kind.working.name]
    param_bytes, grad_bytes = kind.param.itemsize, kind.grad.itemsize

    @jit(kind.name)
    def run(p, g, s0, s1, s2, w, e, begin, end, p_step, g_step, c):
        # Addresses, not indices: an offset may be negative, and Numba would count a negative index from the end.
        for k in range(begin, end):
            element(array_at(p, 1, param), array_at(g, 1, grad), s0, s1, s2, w, e, 0, 0, k, c)
            p += p_step
            g += g_step

    @entry(kind.name)
    def strided(words, segments, chunks, chunk, first, last, rows):
        before = enter_ieee_mode()
        after_pointers = _NROLES * segments
        chunk_segments = after_pointers + 3 * segments
        walks = chunk_segments + 2 * chunks
        for at in range(chunk_segments + first, chunk_segments + last):
            s = words[at]
            start = words[at + chunks]
            end = min(start + chunk, words[after_pointers + segments + s])
            c = _coefficients(rows[words[after_pointers + 2 * segments + s]])
            if c[SKIP]:
                continue
            s0 = array_at(words[2 * segments + s], end, working)
            s1 = array_at(words[3 * segments + s], end, working)
            s2 = array_at(words[4 * segments + s], end, working)
            w = array_at(words[5 * segments + s], end, working)
            e = array_at(words[6 * segments + s], end, working)
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
                run(p, g, s0, s1, s2, w, e, k, stop, p_step, g_step, c)
                k = stop
        leave_ieee_mode(before)

    return strided


def _make_rows(kind: Specialization, span: Any) -> Any:
    param_bytes, working_bytes, states, master = kind.param.itemsize, kind.working.itemsize, kind.states, kind.master

    @jit(kind.name)
    def ask_for(stream, nbytes):
        for line in range(0, nbytes, LINE):
            prefetch(stream + line)

    @entry(kind.name)
    def rows(p, g, s0, s1, s2, w, e, width, indices, first, last, row):
        if row[SKIP]:
            return
        before = enter_ieee_mode()
        numbers = array_at(indices, last, np.int64)
        for q in range(first, last):
            # The rows lie anywhere, so the processor does not know the next ones before it is there.
            if q + AHEAD < last and numbers[q + AHEAD] >= 0:
                at = numbers[q + AHEAD] * width
                place, nbytes = at * working_bytes, width * working_bytes
                ask_for(p + at * param_bytes, width * param_bytes)
                if states > 0:
                    ask_for(s0 + place, nbytes)
                if states > 1:
                    ask_for(s1 + place, nbytes)
                if states > 2:
                    ask_for(s2 + place, nbytes)
                if master:
                    ask_for(w + place, nbytes)
            if numbers[q] >= 0:
                at = numbers[q] * width
                place = at * working_bytes
                span(
                    p + at * param_bytes,
                    g + q * width * working_bytes,
                    s0 + place,
                    s1 + place,
                    s2 + place,
                    w + place,
                    e,
                    0,
                    width,
                    row,
                )
        leave_ieee_mode(before)

    return rows


def signature(kind: Specialization) -> tuple[Any, ...]:
    """The argument types of a specialization's kernel."""
    from numba import float32, float64, int64

    working = {"float32": float32, "float64": float64}[kind.working.name]
    if kind.family in ("flat", "rows"):
        return (*(int64,) * (_NROLES + (2 if kind.family == "flat" else 4)), working[::1])
    return (int64[::1], *(int64,) * 5, working[:, ::1])
