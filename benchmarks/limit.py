"""The limit: loops that read and write the same streams as the optimizer, and hardly compute.

On the CPU the loop is compiled by Numba with the package's own settings and shared out by the engine's own threads, in as many
parts as the engine would use: what the optimizer takes longer than this is not memory's fault. For many tensors the limit is one
flat array of the same total size. On a GPU it is the plain copy of half as many bytes, each of which is read and written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from gpu_adam.engines import engine_named

from .cases import Case
from .place import Place
from .rules import RULES


@cache
def _kernels() -> dict[str, Callable[..., None]]:
    import numba

    from gpu_adam.kernels.cpu.intrinsics import NoAliasCompiler

    njit = numba.njit(nogil=True, pipeline_class=NoAliasCompiler)

    # The word that is only read goes into each of the others by one exclusive or, so that no read and no write can be left out. Handing
    # words on from stream to stream instead, with no operation but one, took 5 % longer.
    @njit
    def move(p, g, m, v):
        for i in range(p.size):
            word = g[i]
            p[i] ^= word
            m[i] ^= word
            v[i] ^= word

    @njit
    def move_one_state(p, g, s):
        for i in range(p.size):
            word = g[i]
            p[i] ^= word
            s[i] ^= word

    @njit
    def move_with_master(p, g, m, v, w):
        for i in range(p.size):
            word = g[i]
            p[i] = word
            m[i] ^= word
            v[i] ^= word
            w[i] ^= word

    @njit
    def move_with_average(p, g, m, v, a):
        for i in range(p.size):
            word = g[i]
            p[i] ^= word
            m[i] ^= word
            v[i] ^= word
            a[i] ^= word

    @njit
    def read(g, total):
        word = total[0]
        for i in range(g.size):
            word ^= g[i]
        total[0] = word

    return {
        "move": move,
        "one state": move_one_state,
        "master": move_with_master,
        "average": move_with_average,
        "read": read,
    }


def limit(case: Case, place: Place) -> Callable[[], None]:
    """What the steps of a case are compared with."""
    return cpu_limit(case) if place.device == "cpu" else gpu_limit(case, place)


def cpu_limit(case: Case) -> Callable[[], None]:
    """A step of the same traffic over one flat array a stream."""
    master = case.format == "bfloat16"
    words = [np.uint16, np.uint16] if master else [np.uint32, np.uint32]
    others = 3 if master or case.variant == "average" else RULES[case.optimizer].states
    words += [np.uint32] * others
    streams = [_aligned(case.updated, word) for word in words]
    kernel = {1: "one state", 2: "move", 3: "master" if master else "average"}[others]
    move = _shared(kernel, streams)
    if case.variant not in ("clip", "scale"):
        return move
    # All gradients are read before the first parameter can be written.
    totals = _aligned(1, words[1])
    read = _shared("read", streams[1:2], totals)

    def read_and_move() -> None:
        read()
        move()

    return read_and_move


def _shared(name: str, streams: Sequence[Any], *others: Any) -> Callable[[], None]:
    """A kernel over all elements, shared out over the engine's threads as a step of the engine is."""
    from gpu_adam.engines.cpu import SERIAL

    kernel, n = _kernels()[name], streams[0].size
    pool = engine_named("cpu").pool  # type: ignore[attr-defined]
    count = min(pool.count, -(-n // SERIAL))
    cuts = [n * k // count // 1024 * 1024 for k in range(count)] + [n]
    parts = [(*(stream[cuts[k] : cuts[k + 1]] for stream in streams), *others) for k in range(count)]
    if count == 1:
        return lambda: kernel(*parts[0])
    return lambda: pool.run(kernel, parts)


def _aligned(size: int, word: Any) -> Any:
    """An array that begins on a cache line, as NumPy's do not: no access straddles two lines."""
    itemsize = np.dtype(word).itemsize
    whole = np.ones(size + 64 // itemsize, word)
    first = -whole.ctypes.data % 64 // itemsize
    return whole[first : first + size]


def gpu_limit(case: Case, place: Place) -> Callable[[], None]:
    """A copy on the device that moves as many bytes: of half of them, each is read and written; the driver's own, if CuPy is here."""
    nbytes = case.ideal_bytes // 2
    if not place.has_cupy:
        source, to = (place.library.put(np.zeros(nbytes // 4, np.float32)) for _ in range(2))
        return lambda: place.library.copy(to, source)
    import cupy

    # Bits like an optimizer's, not a constant's, which cost the memory less power. The factor spreads a number over its whole word.
    source = cupy.arange(-(-nbytes // 4), dtype="u4")
    source *= np.uint32(2654435761)
    to = cupy.empty_like(source)
    return lambda: to.data.copy_from_device_async(source.data, nbytes, cupy.cuda.Stream.null)
