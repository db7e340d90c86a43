"""The Numba CUDA kernels that update: one for each family, made for a specialization out of the rule that the CPU engine compiles too.

Their twins in CUDA C++ (`flat.cu`, `multi_tensor.cu`) find the elements in the same way. A thread owns ``lanes`` elements at a multiple
of ``lanes``, as many as 16 bytes of the narrowest stream hold. Where all of them lie in bounds it reads and writes 16 bytes at a time; a
vector that a head or a tail cuts is handled element by element, and so is a stream that is not 16-byte aligned, that one alone.
Where the step is skipped nothing is written.

A block of a persistent grid goes on with the work of the block that would lie a whole grid behind it, as long as there is some.

The rule's functions are inlined and its lanes unrolled, so that local arrays are registers and one text serves any number of vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from numba import cuda

from gpu_adam.kernels.abi import MAX_DIMS, WALK_WORDS
from gpu_adam.kernels.specialization import ROLES

from ..abi import ROW_WORDS, SKIP, WORD
from .sparse import make_rows
from .target import Target, device_target, inlined
from .update import is_streamed, make_average, make_before, make_coefficients, make_group, make_rule

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Hint, Specialization

_ROLES = len(ROLES)


def make_kernel(
    kind: Specialization,
    vectors: int = 1,
    hint: Hint = "streaming",
    persistent: bool = False,
    target: Target | None = None,
) -> Callable[..., None]:
    """The kernel of a specialization as a Python function, for ``numba.cuda`` to compile.

    Flat: ``(param, grad, state0, state1, state2, master, average, size, row)``, a block updates ``threads * vectors * lanes`` elements
    at a time.
    Multi-tensor and strided: ``(table, segments, chunks, chunk, rows)``, a block updates one chunk of the table.
    Rows: see `gpu_adam.kernels.numba_cuda.sparse.make_rows`.
    All are addresses but ``size``, ``segments``, ``chunks`` and ``chunk``.

    Args:
        kind: What it is made for.
        vectors: Vectors that a thread loads before it computes with the first; the strided family goes by single elements.
        hint: What the caches are told.
        persistent: Whether a block goes on with other chunks; not for rows.
        target: Where it will run, by default on the GPU.
    """
    target = target or device_target()
    if kind.family == "rows":
        return make_rows(kind, vectors, hint, target)
    if kind.family == "strided":
        return _make_strided(kind, hint, persistent, target)
    make = _make_flat if kind.family == "flat" else _make_multi_tensor
    return make(kind, vectors, hint, persistent, target)


def _make_flat(kind: Specialization, vectors: int, hint: Hint, persistent: bool, target: Target) -> Callable[..., None]:
    group, coefficients, lanes = make_group(kind, vectors, hint, target), make_coefficients(kind, target), kind.lanes
    dtype = kind.working.dtype.type

    def flat(p, g, s0, s1, s2, w, e, size, row):
        c = cuda.local.array(ROW_WORDS, dtype)
        coefficients(row, c)
        if c[SKIP]:
            return
        step = cuda.blockDim.x * lanes
        at = cuda.blockIdx.x * (step * vectors) + cuda.threadIdx.x * lanes
        while True:
            group(p, g, s0, s1, s2, w, e, at, step, 0, size, c)
            at += cuda.gridDim.x * (step * vectors)
            if not persistent or at >= size:
                break

    return flat


def _make_multi_tensor(
    kind: Specialization, vectors: int, hint: Hint, persistent: bool, target: Target
) -> Callable[..., None]:
    share, coefficients = _make_share(target), make_coefficients(kind, target)
    group, lanes, dtype = make_group(kind, vectors, hint, target), kind.lanes, kind.working.dtype.type
    row_bytes = ROW_WORDS * kind.working.itemsize

    def multi_tensor(table, segments, chunks, chunk, rows):
        c = cuda.local.array(ROW_WORDS, dtype)
        step = cuda.blockDim.x * lanes
        number = cuda.blockIdx.x
        while True:
            p, g, s0, s1, s2, w, e, start, begin, end, row, _ = share(table, segments, chunks, chunk, number)
            coefficients(rows + row * row_bytes, c)
            if not c[SKIP]:
                # A chunk starts on a multiple of the vector, wherever its segment begins. No `range`, which divides to count its rounds.
                at = start + cuda.threadIdx.x * lanes
                while at < end:
                    group(p, g, s0, s1, s2, w, e, at, step, begin, end, c)
                    at += step * vectors
            number += cuda.gridDim.x
            if not persistent or number >= chunks:
                break

    return multi_tensor


def _make_strided(kind: Specialization, hint: Hint, persistent: bool, target: Target) -> Callable[..., None]:
    share, coefficients = _make_share(target), make_coefficients(kind, target)
    before, rule, after = make_before(target), make_rule(kind, target), make_average(target)
    streamed, param_streamed = is_streamed(hint)
    load_param, load_grad, load_state = (
        target.load(format, kind.working, streamed) for format in (kind.param, kind.grad, kind.working)
    )
    store_state = target.store(kind.working, kind.working, streamed)
    store_param, load_word = target.store(kind.param, kind.working, param_streamed), target.load_word
    param_bytes, grad_bytes, working_bytes = kind.param.itemsize, kind.grad.itemsize, kind.working.itemsize
    states, master, averages = kind.states, kind.master, kind.average
    dtype, row_bytes = kind.working.dtype.type, ROW_WORDS * working_bytes

    def strided(table, segments, chunks, chunk, rows):
        c = cuda.local.array(ROW_WORDS, dtype)
        number = cuda.blockIdx.x
        while True:
            p, g, s0, s1, s2, w, e, _, begin, end, row, segment = share(table, segments, chunks, chunk, number)
            coefficients(rows + row * row_bytes, c)
            walk = table + ((_ROLES + 3) * segments + 2 * chunks + segment * WALK_WORDS) * WORD
            sizes = walk + WORD
            param_strides = sizes + MAX_DIMS * WORD
            grad_strides = param_strides + MAX_DIMS * WORD
            innermost = load_word(walk) - 1
            k = end if c[SKIP] else begin + cuda.threadIdx.x
            while k < end:
                # Coordinates from the innermost dimension outwards; strides may be negative.
                rest, at_param, at_grad, at_state = k, p, g, k * working_bytes
                for d in range(innermost, -1, -1):
                    outer = rest // load_word(sizes + d * WORD)
                    coordinate = rest - outer * load_word(sizes + d * WORD)
                    at_param += coordinate * load_word(param_strides + d * WORD) * param_bytes
                    at_grad += coordinate * load_word(grad_strides + d * WORD) * grad_bytes
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
                if averages:
                    store_state(e + at_state, after(load_state(e + at_state), theta, c))
                k += cuda.blockDim.x
            number += cuda.gridDim.x
            if not persistent or number >= chunks:
                break

    return strided


def _make_share(target: Target) -> Any:
    """A chunk of the table: ``(table, segments, chunks, chunk, number)`` to its segment's streams, its bounds, and what belongs to it.

    ``(p, g, s0, s1, s2, w, e, start, begin, end, row, segment)``: the chunk begins at ``start``, its elements are ``[begin, end)``.
    """
    load_word = target.load_word

    @inlined
    def share(table, segments, chunks, chunk, number):
        chunk_segments = table + ((_ROLES + 3) * segments + number) * WORD
        segment = load_word(chunk_segments)
        start = load_word(chunk_segments + chunks * WORD)
        # The segment's column: a pointer for each role, then where it begins, where it ends, and its row of coefficients.
        column, next_row = table + segment * WORD, segments * WORD
        return (
            load_word(column),
            load_word(column + next_row),
            load_word(column + 2 * next_row),
            load_word(column + 3 * next_row),
            load_word(column + 4 * next_row),
            load_word(column + 5 * next_row),
            load_word(column + 6 * next_row),
            start,
            max(start, load_word(column + _ROLES * next_row)),
            min(start + chunk, load_word(column + (_ROLES + 1) * next_row)),
            load_word(column + (_ROLES + 2) * next_row),
            segment,
        )

    return share
