"""The Numba CUDA kernels: one for each family, made for a specialization out of the rule that the CPU engine compiles too.

Their twins in CUDA C++ (`flat.cu`, `multi_tensor.cu`) find the elements in the same way. A thread owns ``lanes`` elements at a multiple
of ``lanes``, as many as 16 bytes of the narrowest stream hold. Where all of them lie in bounds it reads and writes 16 bytes at a time; a
vector that a head or a tail cuts is handled element by element, and so is a stream that is not 16-byte aligned, that one alone.

The rule's functions are inlined and its lanes unrolled, so that local arrays are registers and one text serves any number of vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numba import cuda

from gpu_adam.layout import MAX_DIMS
from gpu_adam.plan import ROLES, ROW_WORDS, WALK_WORDS

from .rules import RULES, decay

if TYPE_CHECKING:
    from gpu_adam.formats import Format
    from gpu_adam.plan import Specialization

_ROLES, _ROW_WORDS, _WALK_WORDS, _MAX_DIMS = len(ROLES), ROW_WORDS, WALK_WORDS, MAX_DIMS
_WORD = 8
"""Bytes of one word of a table."""


@dataclass(frozen=True)
class Target:
    """What the kernels ask of the machine, so that the simulator can stand in for one: each function by its name in `cuda_intrinsics`.

    Attributes:
        fma, sqrt: Of the working format.
        load_word: ``(address) -> int64``.
        load, store: From ``(format, working)`` to ``(address) -> number`` and ``(address, number)``.
        load_vector, store_vector: From ``(format, working, lanes)`` to ``(address, values, first)``.
    """

    fma: Callable[..., Any]
    sqrt: Callable[..., Any]
    load_word: Callable[..., Any]
    load: Callable[[Format, Format], Callable[..., Any]]
    store: Callable[[Format, Format], Callable[..., Any]]
    load_vector: Callable[[Format, Format, int], Callable[..., Any]]
    store_vector: Callable[[Format, Format, int], Callable[..., Any]]


def device_target() -> Target:
    """The GPU itself."""
    # Not imported above: the simulator has no intrinsics.
    from . import cuda_intrinsics as on

    return Target(on.fma, math.sqrt, on.load_word, on.load, on.store, on.load_vector, on.store_vector)


def signature(kind: Specialization) -> str:
    """The argument types of a specialization's kernel: addresses and counts, all of them 64-bit."""
    return f"void({', '.join(['int64'] * (8 if kind.family == 'flat' else 5))})"


def make_kernel(kind: Specialization, vectors: int = 1, target: Target | None = None) -> Callable[..., None]:
    """The kernel of a specialization as a Python function, for ``numba.cuda`` to compile.

    Flat: ``(param, grad, state0, state1, state2, master, size, row)``, a block updates ``threads * vectors * lanes`` elements.
    Multi-tensor and strided: ``(table, segments, chunks, chunk, rows)``, a block updates one chunk of the table.
    All are addresses but ``size``, ``segments``, ``chunks`` and ``chunk``.

    Args:
        kind: What it is made for.
        vectors: Vectors that a thread loads before it computes with the first; the strided family goes by single elements.
        target: Where it will run, by default on the GPU.
    """
    target = target or device_target()
    if kind.family == "strided":
        return _make_strided(kind, target)
    return (_make_flat if kind.family == "flat" else _make_multi_tensor)(kind, vectors, target)


def _inlined(function: Callable[..., Any]) -> Any:
    """A device function as part of its caller: Numba compiles a separate one for the current device, and there may be none."""
    return cuda.jit(function, device=True, inline="always")


def _make_flat(kind: Specialization, vectors: int, target: Target) -> Callable[..., None]:
    group, coefficients, lanes = _make_group(kind, vectors, target), _make_coefficients(kind, target), kind.lanes
    dtype = kind.working.dtype.type

    def flat(p, g, s0, s1, s2, w, size, row):
        c = cuda.local.array(_ROW_WORDS, dtype)
        coefficients(row, c)
        step = cuda.blockDim.x * lanes
        at = cuda.blockIdx.x * (step * vectors) + cuda.threadIdx.x * lanes
        group(p, g, s0, s1, s2, w, at, step, 0, size, c)

    return flat


def _make_multi_tensor(kind: Specialization, vectors: int, target: Target) -> Callable[..., None]:
    share, coefficients = _make_share(target), _make_coefficients(kind, target)
    group, lanes, dtype = _make_group(kind, vectors, target), kind.lanes, kind.working.dtype.type
    row_bytes = _ROW_WORDS * kind.working.itemsize

    def multi_tensor(table, segments, chunks, chunk, rows):
        p, g, s0, s1, s2, w, start, begin, end, row, _ = share(table, segments, chunks, chunk)
        c = cuda.local.array(_ROW_WORDS, dtype)
        coefficients(rows + row * row_bytes, c)
        step = cuda.blockDim.x * lanes
        # A chunk starts on a multiple of the vector, wherever its segment begins. No `range` here, which divides to count its rounds.
        at = start + cuda.threadIdx.x * lanes
        while at < end:
            group(p, g, s0, s1, s2, w, at, step, begin, end, c)
            at += step * vectors

    return multi_tensor


def _make_strided(kind: Specialization, target: Target) -> Callable[..., None]:
    share, coefficients = _make_share(target), _make_coefficients(kind, target)
    before, rule = _make_before(target), _make_rule(kind, target)
    load_param, load_grad = target.load(kind.param, kind.working), target.load(kind.grad, kind.working)
    load_state, store_state = target.load(kind.working, kind.working), target.store(kind.working, kind.working)
    store_param, load_word = target.store(kind.param, kind.working), target.load_word
    param_bytes, grad_bytes, working_bytes = kind.param.itemsize, kind.grad.itemsize, kind.working.itemsize
    states, master, dtype, row_bytes = kind.states, kind.master, kind.working.dtype.type, _ROW_WORDS * working_bytes

    def strided(table, segments, chunks, chunk, rows):
        p, g, s0, s1, s2, w, _, begin, end, row, segment = share(table, segments, chunks, chunk)
        c = cuda.local.array(_ROW_WORDS, dtype)
        coefficients(rows + row * row_bytes, c)
        walk = table + ((_ROLES + 3) * segments + 2 * chunks + segment * _WALK_WORDS) * _WORD
        sizes = walk + _WORD
        param_strides = sizes + _MAX_DIMS * _WORD
        grad_strides = param_strides + _MAX_DIMS * _WORD
        innermost = load_word(walk) - 1
        k = begin + cuda.threadIdx.x
        while k < end:
            # Coordinates from the innermost dimension outwards; strides may be negative.
            rest, at_param, at_grad, at_state = k, p, g, k * working_bytes
            for d in range(innermost, -1, -1):
                outer = rest // load_word(sizes + d * _WORD)
                coordinate = rest - outer * load_word(sizes + d * _WORD)
                at_param += coordinate * load_word(param_strides + d * _WORD) * param_bytes
                at_grad += coordinate * load_word(grad_strides + d * _WORD) * grad_bytes
                rest = outer
            theta = load_state(w + at_state) if master else load_param(at_param)
            theta, gradient = before(theta, load_grad(at_grad), c)
            # A state that the rule lacks is handed some number of the right type; the compiler drops it.
            x0 = load_state(s0 + at_state) if states > 0 else gradient
            x1 = load_state(s1 + at_state) if states > 1 else gradient
            x2 = load_state(s2 + at_state) if states > 2 else gradient
            theta, x0, x1, x2 = rule(theta, gradient, x0, x1, x2, c)
            store_param(at_param, theta)
            if master:
                store_state(w + at_state, theta)
            if states > 0:
                store_state(s0 + at_state, x0)
            if states > 1:
                store_state(s1 + at_state, x1)
            if states > 2:
                store_state(s2 + at_state, x2)
            k += cuda.blockDim.x

    return strided


def _make_share(target: Target) -> Any:
    """A block's share of the table: ``(table, segments, chunks, chunk)`` to its segment's streams, its bounds, and what belongs to it.

    ``(p, g, s0, s1, s2, w, start, begin, end, row, segment)``: the chunk begins at ``start``, its elements are ``[begin, end)``.
    """
    load_word = target.load_word

    @_inlined
    def share(table, segments, chunks, chunk):
        chunk_segments = table + ((_ROLES + 3) * segments + cuda.blockIdx.x) * _WORD
        segment = load_word(chunk_segments)
        start = load_word(chunk_segments + chunks * _WORD)
        # The segment's column: a pointer for each role, then where it begins, where it ends, and its row of coefficients.
        column, next_row = table + segment * _WORD, segments * _WORD
        return (
            load_word(column),
            load_word(column + next_row),
            load_word(column + 2 * next_row),
            load_word(column + 3 * next_row),
            load_word(column + 4 * next_row),
            load_word(column + 5 * next_row),
            start,
            max(start, load_word(column + _ROLES * next_row)),
            min(start + chunk, load_word(column + (_ROLES + 1) * next_row)),
            load_word(column + (_ROLES + 2) * next_row),
            segment,
        )

    return share


def _make_coefficients(kind: Specialization, target: Target) -> Any:
    """``(row, c)``: a row of coefficients into a local array, which no store through a stream can be thought to change."""
    load, itemsize = target.load(kind.working, kind.working), kind.working.itemsize

    @_inlined
    def coefficients(row, c):
        for k in range(_ROW_WORDS):
            c[k] = load(row + k * itemsize)

    return coefficients


def _make_before(target: Target) -> Any:
    return _inlined(decay(target.fma, target.sqrt))


def _make_rule(kind: Specialization, target: Target) -> Any:
    return _inlined(RULES[kind.rule].make(target.fma, target.sqrt))


def _make_group(kind: Specialization, vectors: int, target: Target) -> Any:
    """A thread's vectors at ``at``, ``at + step``, …, cut to ``[begin, end)``, all loads before the first use.

    ``(p, g, s0, s1, s2, w, at, step, begin, end, c)`` with the streams' base addresses.
    """
    before, rule = _make_before(target), _make_rule(kind, target)
    param, grad, working, lanes = kind.param, kind.grad, kind.working, kind.lanes
    load_param, load_grad, load_state = (target.load(format, working) for format in (param, grad, working))
    load_params, load_grads, load_states = (
        target.load_vector(format, working, lanes) for format in (param, grad, working)
    )
    store_param, store_state = (target.store(format, working) for format in (param, working))
    store_params, store_states = (target.store_vector(format, working, lanes) for format in (param, working))
    param_bytes, grad_bytes, working_bytes = param.itemsize, grad.itemsize, working.itemsize
    states, master, count, dtype = kind.states, kind.master, vectors * lanes, working.dtype.type

    @_inlined
    def group(p, g, s0, s1, s2, w, at, step, begin, end, c):
        theta = cuda.local.array(count, dtype)
        gradient = cuda.local.array(count, dtype)
        x0 = cuda.local.array(count, dtype)
        x1 = cuda.local.array(count, dtype)
        x2 = cuda.local.array(count, dtype)
        for v in range(vectors):
            i, first = at + v * step, v * lanes
            if begin <= i and i + lanes <= end:
                if master:
                    load_states(w + i * working_bytes, theta, first)
                else:
                    load_params(p + i * param_bytes, theta, first)
                load_grads(g + i * grad_bytes, gradient, first)
                if states > 0:
                    load_states(s0 + i * working_bytes, x0, first)
                if states > 1:
                    load_states(s1 + i * working_bytes, x1, first)
                if states > 2:
                    load_states(s2 + i * working_bytes, x2, first)
            else:
                for lane in range(first, first + lanes):
                    # Lanes out of bounds compute with some number, and nothing of it is stored.
                    theta[lane] = gradient[lane] = x0[lane] = x1[lane] = x2[lane] = c[0]
                    k = i + lane - first
                    if begin <= k and k < end:
                        theta[lane] = load_state(w + k * working_bytes) if master else load_param(p + k * param_bytes)
                        gradient[lane] = load_grad(g + k * grad_bytes)
                        if states > 0:
                            x0[lane] = load_state(s0 + k * working_bytes)
                        if states > 1:
                            x1[lane] = load_state(s1 + k * working_bytes)
                        if states > 2:
                            x2[lane] = load_state(s2 + k * working_bytes)
        for lane in range(count):
            theta[lane], gradient[lane] = before(theta[lane], gradient[lane], c)
            theta[lane], x0[lane], x1[lane], x2[lane] = rule(
                theta[lane], gradient[lane], x0[lane], x1[lane], x2[lane], c
            )
        for v in range(vectors):
            i, first = at + v * step, v * lanes
            if begin <= i and i + lanes <= end:
                store_params(p + i * param_bytes, theta, first)
                if master:
                    store_states(w + i * working_bytes, theta, first)
                if states > 0:
                    store_states(s0 + i * working_bytes, x0, first)
                if states > 1:
                    store_states(s1 + i * working_bytes, x1, first)
                if states > 2:
                    store_states(s2 + i * working_bytes, x2, first)
            else:
                for lane in range(first, first + lanes):
                    k = i + lane - first
                    if begin <= k and k < end:
                        store_param(p + k * param_bytes, theta[lane])
                        if master:
                            store_state(w + k * working_bytes, theta[lane])
                        if states > 0:
                            store_state(s0 + k * working_bytes, x0[lane])
                        if states > 1:
                            store_state(s1 + k * working_bytes, x1[lane])
                        if states > 2:
                            store_state(s2 + k * working_bytes, x2[lane])

    return group
