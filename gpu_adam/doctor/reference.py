"""The reference of the self-check: the arithmetic of docs/arithmetic.md, one exact operation and one rounding a call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..dtypes import FLOAT32, Format
from ..rules.algorithm import power

LR, BETAS, EPS, WEIGHT_DECAY = 1e-2, (0.9, 0.999), 1e-8, 0.01
STEPS = 3

# ±0, subnormals, the smallest and the largest numbers, infinities, NaN; the rest is ordinary, of many sizes.
_SPECIAL = (0.0, -0.0, 1e-45, -3e-42, 1e-38, -1.2e-38, 1e19, -2e19, 1e38, -3e38, math.inf, -math.inf, math.nan)
VALUES = (*_SPECIAL, *(math.sin(k) * 10.0 ** (k % 9 - 6) for k in range(1, 32)))
SIZES = (1, 7, 17, 19)
"""Tensors that the values are split into: none a multiple of a vector, so that heads and tails are walked too."""

CLIPPED = tuple(((7 * k) % 31 - 15) / 8 for k in range(len(VALUES)))
"""Gradients that are clipped: numbers of each format whose squares have an exact sum, in any order."""

_PRECISION = {
    "float64": (53, -1022, 1023),
    "float32": (24, -126, 127),
    "float16": (11, -14, 15),
    "bfloat16": (8, -126, 127),
}
"""Bits of the significand, and the least and the greatest exponent."""


def nearest(value: Fraction, format: Format) -> float:
    """The number of a format nearest to an exact one, ties to even, past the largest infinity.

    >>> nearest(Fraction(1) + Fraction(1, 2**24), FLOAT32)  # half way between two: the even one
    1.0
    """
    if value == 0:
        return 0.0
    bits, least, greatest = _PRECISION[format.name]
    exponent = abs(value).numerator.bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, least) - bits + 1)
    rounded = round(value / unit) * unit  # Python rounds a half to even
    if abs(rounded) >= Fraction(2) ** (greatest + 1):
        return math.copysign(math.inf, value)
    return math.copysign(float(rounded), value)


def stored(value: float, format: Format) -> float:
    """A number as a format keeps it."""
    return nearest(Fraction(value), format) if math.isfinite(value) and value else value


def clip_factor(gradient: Sequence[float], most: float | None) -> float:
    """What a gradient is multiplied by whose norm may be so much, in float64; the squares' sum must be exact."""
    return 1.0 if most is None else min(most / (math.sqrt(sum(g * g for g in gradient)) + 1e-6), 1.0)


def _fma(a: float, b: float, c: float, format: Format) -> float:
    if math.isfinite(a) and math.isfinite(b) and math.isfinite(c):
        exact = Fraction(a) * Fraction(b) + Fraction(c)
        if exact:
            return nearest(exact, format)
    # With infinities and NaN, and where the sum is exactly zero, float64 has the right answer, signs included.
    return a * b + c


def _divide(a: float, b: float, format: Format) -> float:
    if a and b and math.isfinite(a) and math.isfinite(b):
        return nearest(Fraction(a) / Fraction(b), format)
    if b == 0.0:
        return math.nan if a == 0.0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)
    return a / b


def _sqrt(a: float, format: Format) -> float:
    # Rounded to float64 first, which for a square root of 24 bits does no harm.
    return stored(math.sqrt(a), format) if a >= 0 else math.nan


@dataclass
class Element:
    """One parameter of the reference, with its moments, in the working format and held by Python's floats."""

    p: float
    m: float = 0.0
    v: float = 0.0
    working: Format = FLOAT32

    def step(self, g: float, t: int, scale: float = 1.0) -> None:
        """Step ``t``, with L2 decay, on ``scale`` times a gradient."""
        format = self.working
        w1, w2 = (stored(1.0 - beta, format) for beta in BETAS)
        c1, c2 = (1.0 - power(1.0 - w, t) for w in (w1, w2))
        r2, a = stored(1.0 / math.sqrt(c2), format), stored(-LR / c1, format)
        # A product alone is the sum with a zero, but for the sign of a zero: -0 is what takes nothing away.
        g = _fma(stored(scale, format), g, -0.0, format)
        g = _fma(stored(WEIGHT_DECAY, format), self.p, g, format)
        self.m = _fma(w1, g, _fma(-w1, self.m, self.m, format), format)
        # An infinite one stays so: a finite gradient's square may be.
        decayed = self.v if self.v == math.inf else _fma(-w2, self.v, self.v, format)
        self.v = _fma(_fma(w2, g, -0.0, format), g, decayed, format)
        d = _fma(_sqrt(self.v, format), r2, stored(EPS, format), format)
        self.p = _fma(a, _divide(self.m, d, format), self.p, format)
