"""What the CPU kernels convert and fuse, number by number, against NumPy and the reference; for a process that compiles for a processor."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_adam.dtypes import FLOAT32, FLOAT64
from tests.support.reference import fma

Array = np.ndarray[Any, Any]


def float16_words() -> Array:
    """All of them."""
    return np.arange(1 << 16, dtype=np.uint16)


def float32_patterns(seed: int = 0, count: int = 1 << 22) -> Array:
    """Every number of float16, what is half way to the next, and their neighbours; then random bits."""
    halves = float16_words().view(np.float16).astype(np.float32).view(np.uint32)
    # Half a place further: for subnormals that is not half of the pattern's, so those come from sums.
    with np.errstate(all="ignore"):
        next_ones = (float16_words() + np.uint16(1)).view(np.float16).astype(np.float64)
        ties = ((halves.view(np.float32).astype(np.float64) + next_ones) / 2).astype(np.float32).view(np.uint32)
    near = np.concatenate([some + np.uint32(d & 0xFFFFFFFF) for some in (halves, ties) for d in (-2, -1, 0, 1, 2)])
    limits = np.array([0x477FEFFF, 0x477FF000, 0x477FFFFF, 0x47800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001], np.uint32)
    random = np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32)
    return np.concatenate([near, limits, limits | np.uint32(1 << 31), random])


def rounded(patterns: Array) -> Array:
    """The float16 words nearest to float32 patterns: NumPy's; a NaN keeps its upper bits and is made quiet."""
    with np.errstate(all="ignore"):
        words = patterns.view(np.float32).astype(np.float16).view(np.uint16)
    nan = (patterns >> 16 & 0x8000 | 0x7E00 | patterns >> 13 & 0x3FF).astype(np.uint16)
    return np.where((patterns & 0x7FFFFFFF) > 0x7F800000, nan, words)


def widened(words: Array) -> Array:
    """The float32 patterns of float16 words, likewise."""
    wide = words.astype(np.uint32)
    exact = words.view(np.float16).astype(np.float32).view(np.uint32)
    nan = (wide & 0x8000) << 16 | 0x7FC00000 | (wide & 0x3FF) << 13
    return np.where((wide & 0x7FFF) > 0x7C00, nan, exact)


def wrong_conversions() -> list[str]:
    """What the kernels' own functions convert otherwise than NumPy, one by one and in vectors."""
    from numba import njit

    from gpu_adam.kernels.cpu.target import loader, storer

    wrong = []

    def compare(convert: Any, given: Array, expected: Array, what: str) -> None:
        @njit(no_cfunc_wrapper=True)  # type: ignore[untyped-decorator,unused-ignore]
        def run(given, out, step):  # type: ignore[no-untyped-def]
            if step == 1:  # a loop of its own, which is vectorised
                for k in range(given.size):
                    out[k] = convert(given[k])
            else:
                for k in range(0, given.size, step):
                    out[k] = convert(given[k])

        bits = f"u{expected.dtype.itemsize}"
        for step in (1, 3):
            out = np.zeros_like(expected)
            run(given, out, step)
            differ = np.flatnonzero(out.view(bits)[::step] != expected.view(bits)[::step])
            if differ.size:
                k = int(differ[0]) * step
                wrong.append(f"{what}, step {step}: {differ.size} differ, first {given[k]!r} to {out[k]!r}")

    words, patterns = float16_words(), float32_patterns()
    single = widened(words).view(np.float32)
    compare(loader("float16", FLOAT32), words, single, "float16 to float32")
    with np.errstate(all="ignore"):
        compare(loader("float16", FLOAT64), words, single.astype(np.float64), "float16 to float64")
    compare(storer("float16"), patterns.view(np.float32), rounded(patterns), "float32 to float16")
    return wrong


def fma_operands(seed: int, count: int = 1 << 17) -> list[Array]:
    """Three arrays of float32: random bits; sums that cancel, or that one half of is far below; few bits, so that sums lie half way."""
    rng = np.random.default_rng(seed)
    bits = [rng.integers(0, 1 << 32, count, dtype=np.uint32) for _ in range(3)]
    for part, keep in ((slice(0, count // 3), 0x807FFFFF), (slice(count // 3, count // 2), 0x80700000)):
        size = bits[0][part].size
        e = [rng.integers(1, 254, size), rng.integers(1, 254, size)]
        e.append((e[0] + e[1] - 127 + rng.integers(-30, 54, size)).clip(0, 254))
        for one, exponent in zip(bits, e, strict=True):
            one[part] = one[part] & np.uint32(keep) | exponent.astype(np.uint32) << np.uint32(23)
    special = np.array(
        [0, 1, 2, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x3F800000, 0x3F7FFFFF], np.uint32
    )
    for one in bits:
        chosen = rng.random(count) < 0.05
        one[chosen] = rng.choice(special, chosen.sum()) | rng.integers(0, 2, chosen.sum()).astype(
            np.uint32
        ) << np.uint32(31)
    return [one.view(np.float32) for one in bits]


def wrong_fused() -> list[str]:
    """Operands for which the kernels' fused multiply-add is not the reference's."""
    from numba import njit

    from gpu_adam.kernels.cpu.fma import fma as compiled

    @njit(no_cfunc_wrapper=True)  # type: ignore[untyped-decorator,unused-ignore]
    def run(a, b, c, out):  # type: ignore[no-untyped-def]
        for k in range(out.size):
            out[k] = compiled(a[k], b[k], c[k])

    a, b, c = fma_operands(0)
    out = np.zeros_like(a)
    run(a, b, c, out)
    with np.errstate(all="ignore"):
        expected = fma(a, b, c)
    nan = np.isnan(out) & np.isnan(expected)
    differ = np.flatnonzero((out.view(np.uint32) != expected.view(np.uint32)) & ~nan)
    return [f"fma({a[k]!r}, {b[k]!r}, {c[k]!r}) is {out[k]!r}, not {expected[k]!r}" for k in differ[:3]]
