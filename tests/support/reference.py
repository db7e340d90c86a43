"""The arithmetic of docs/arithmetic.md, written out: what every engine must return, to the bit.

It imports nothing of `gpu_adam`. NumPy's scalar-by-scalar multiplication, division and square root round correctly; the fused
multiply-add, which NumPy lacks, is computed exactly here: with fractions for float64, and for float32 in float64 rounded to odd, which a
test holds against fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


# ---- Fused multiply-add -------------------------------------------------------------------------------------------------------------


def fma_float64(a: float, b: float, c: float) -> float:
    """``a*b + c`` of float64 numbers, rounded once to nearest, ties to even."""
    if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c)):
        # The product of finite numbers is finite before rounding, so it cannot be what makes a NaN of an infinite c.
        product = (
            a * b if not (math.isfinite(a) and math.isfinite(b)) else math.copysign(1.0, a) * math.copysign(1.0, b)
        )
        return product + c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact:
        return nearest_float64(exact)
    # Zero: the sum of an exact zero product and a zero, or of opposites, has the sign that IEEE 754 gives such a sum.
    product_sign = math.copysign(1.0, a) * math.copysign(1.0, b)
    return math.copysign(0.0, c) if c == 0.0 and product_sign == math.copysign(1.0, c) else 0.0


def nearest_float64(exact: Fraction) -> float:
    """The nearest float64, ties to even; past the largest one infinity."""
    try:
        nearest = exact.numerator / exact.denominator  # Python rounds this quotient correctly, subnormals included
    except OverflowError:
        return math.inf if exact > 0 else -math.inf
    return nearest or math.copysign(0.0, exact.numerator)


def nearest_float32(exact: Fraction) -> np.float32:
    """The nearest float32, ties to even, by comparing the neighbours' distances as fractions."""
    if abs(exact) >= Fraction(2) ** 128 - Fraction(2) ** 103:
        return np.float32(math.inf if exact > 0 else -math.inf)
    guess = np.float32(nearest_float64(exact))
    near = [np.nextafter(guess, np.float32(side)) for side in (-math.inf, math.inf)] + [guess]
    finite = [one for one in near if np.isfinite(one)]
    return min(finite, key=lambda one: (abs(Fraction(float(one)) - exact), int(one.view(np.uint32)) & 1))


def fma_float32(a: Array, b: Array, c: Array) -> Array:
    """``a*b + c`` of float32 arrays, rounded once.

    The product is exact in float64. The sum is rounded to odd there: where it is inexact and its last bit is 0, its neighbour on the
    side of the error is taken. Rounding that to float32, 29 bits shorter, is then the same as rounding the exact sum.
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = c.astype(np.float64)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    even = (np.atleast_1d(total).view(np.int64) & 1).reshape(np.shape(total)) == 0
    inexact = np.isfinite(total) & (error != 0) & even
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where(inexact, odd, total).astype(np.float32)


def fma(a: Any, b: Any, c: Any) -> Array:
    """``a*b + c``, rounded once, of arrays and scalars of one format."""
    a, b, c = np.broadcast_arrays(a, b, c)
    assert a.dtype == b.dtype == c.dtype
    if a.dtype == np.float32:
        return fma_float32(a, b, c)
    results = [fma_float64(*map(float, each)) for each in zip(a.flat, b.flat, c.flat, strict=True)]
    return np.array(results, np.float64).reshape(a.shape)


def decayed_squares(weight: Any, squares: Array) -> Array:
    """An accumulator of squares less ``weight`` of it; infinity stays infinity."""
    return np.where(np.isposinf(squares), squares, fma(-weight, squares, squares))


def power(base: float, exponent: int) -> float:
    """Repeated squaring, from the lowest bit up."""
    result = 1.0
    for bit in reversed(f"{exponent:b}"):
        if bit == "1":
            result = result * base
        base = base * base
    return result


# ---- Coefficients -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """The hyperparameters of a step."""

    lr: float | Callable[[int], float] = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    amsgrad: bool = False
    maximize: bool = False
    bias_correction: bool = True
    eps_hat: bool = False


@dataclass(frozen=True)
class Coefficients:
    """What a step multiplies by, in the working format."""

    scale: Any
    decay: Any
    k: Any
    w1: Any
    w2: Any
    r2: Any
    eps: Any
    a: Any


def coefficients(options: Options, t: int, fl: type[Any], factor: float = 1.0) -> Coefficients:
    """Of step ``t``, each computed in float64 and rounded once by ``fl``; ``factor`` is the clip factor over the loss scale."""
    lr = float(options.lr(t) if callable(options.lr) else options.lr)
    w1, w2 = fl(1.0 - options.betas[0]), fl(1.0 - options.betas[1])
    c1 = c2 = 1.0
    if options.bias_correction:
        c1 = 1.0 - power(1.0 - float(w1), t)
        c2 = 1.0 - power(1.0 - float(w2), t)
    r2, a = fl(1.0 / math.sqrt(c2)), fl(-lr / c1)
    if options.eps_hat:
        r2, a = fl(1.0), fl(-lr * math.sqrt(c2) / c1)
    decay, k, eps = fl(options.weight_decay), fl(-lr * options.weight_decay), fl(options.eps)
    return Coefficients(fl(-factor if options.maximize else factor), decay, k, w1, w2, r2, eps, a)


def average_weight(t: int, fl: type[Any], ema_decay: float | None) -> Any:
    """The new parameter's weight in the average of ``t`` of them: an exponential one, or by default the plain mean."""
    if ema_decay is None:
        return fl(1.0 / t)
    w = float(fl(1.0 - ema_decay))
    return fl(w / (1.0 - power(1.0 - w, t)))


# ---- Steps --------------------------------------------------------------------------------------------------------------------------


class Parameter:
    """One parameter and its step count. `p` is what is stored, `unrounded` the same in the working format.

    `average` is the plain mean of the parameters after each step, or with `ema_decay` an exponential one.
    """

    def __init__(self, p: Array, keeps_master: bool = True, ema_decay: float | None = None) -> None:
        self.p, self.ema_decay, self.t = p.copy(), ema_decay, 0
        self.working = np.dtype(np.float64 if p.dtype == np.float64 else np.float32)
        self.average = self.unrounded = p.astype(self.working)
        self.master = p.astype(np.float32) if keeps_master and p.dtype.itemsize == 2 else None

    def advance(self, gradient: Array, options: Options, factor: float, move: Move) -> None:
        """One step of any rule, each line a rounding a call; ``factor`` is the clip factor over the loss scale."""
        self.t += 1
        with np.errstate(all="ignore"):
            c = coefficients(options, self.t, self.working.type, factor)
            p = self.master if self.master is not None else self.p.astype(self.working)
            g = c.scale * gradient.astype(self.working)
            if options.weight_decay and not options.decoupled_weight_decay:
                g = fma(c.decay, p, g)
            if options.weight_decay and options.decoupled_weight_decay:
                p = fma(c.k, p, p)
            p = self.unrounded = move(p, g, c)
            weight = average_weight(self.t, self.working.type, self.ema_decay)
            self.average = fma(weight, p, fma(-weight, self.average, self.average))
            if self.master is not None:
                self.master = p
            self.p = p.astype(self.p.dtype)


Move = Callable[[Array, Array, Coefficients], Array]
"""A rule: of the parameter and its gradient, both in the working format and after decay; the parameter."""


def adam(
    p: Array, g: Array, c: Coefficients, m: Array, v: Array, v_max: Array, amsgrad: bool
) -> tuple[Array, Array, Array, Array]:
    """Adam's move: the parameter and its moments."""
    m = fma(c.w1, g, fma(-c.w1, m, m))
    x = v = fma(c.w2 * g, g, decayed_squares(c.w2, v))
    if amsgrad:
        x = v_max = np.maximum(v_max, v)  # in which NaN wins
    d = fma(np.sqrt(x), c.r2, c.eps)
    return fma(c.a, m / d, p), m, v, v_max


class Reference(Parameter):
    """A parameter of Adam, and its moments."""

    def __init__(self, p: Array, keeps_master: bool = True, ema_decay: float | None = None) -> None:
        super().__init__(p, keeps_master, ema_decay)
        self.m, self.v, self.v_max = (np.zeros(p.shape, self.working) for _ in range(3))

    def step(self, gradient: Array, options: Options, factor: float = 1.0) -> None:
        """One step; ``factor`` is the clip factor over the loss scale."""

        def move(p: Array, g: Array, c: Coefficients) -> Array:
            p, self.m, self.v, self.v_max = adam(p, g, c, self.m, self.v, self.v_max, options.amsgrad)
            return p

        self.advance(gradient, options, factor, move)


# ---- Norms, and what follows from them ----------------------------------------------------------------------------------------------

LEAF, LANES, SUM_LANES = 1024, 128, 256


def in_memory_order(gradient: Array, param: Array) -> Array:
    """A gradient's elements in the order in which its parameter lies in memory: dimensions of larger strides outside."""
    dims = sorted((d for d in range(param.ndim) if param.shape[d] != 1), key=lambda d: -abs(param.strides[d]))
    rest = [d for d in range(param.ndim) if param.shape[d] == 1]
    return gradient.transpose(*rest, *dims).reshape(-1)


def add_neighbours(sums: Array) -> float:
    """The first with the second, the third with the fourth, and so on up to one."""
    while sums.size > 1:
        sums = sums[0::2] + sums[1::2]
    return float(sums[0])


def leaf_sums(gradient: Array) -> list[float]:
    """The sum of squares of each leaf of a gradient, given in the order of its parameter's memory."""
    totals = []
    with np.errstate(all="ignore"):
        for start in range(0, gradient.size, LEAF):
            part = gradient.reshape(-1)[start : start + LEAF].astype(np.float64)
            rows = np.append(part, np.zeros(-part.size % LANES)).reshape(-1, LANES)
            sums = np.zeros(LANES)
            for row in rows:
                # The square of a narrower number is exact in float64, and then the sum alone is rounded.
                sums = fma(row, row, sums) if gradient.dtype == np.float64 else row * row + sums
            totals.append(add_neighbours(sums))
    return totals


def sum_over_slots(slots: Sequence[float]) -> float:
    """The sum of the leaves' sums."""
    sums = np.zeros(SUM_LANES)
    with np.errstate(all="ignore"):
        for j, value in enumerate(slots):
            sums[j % SUM_LANES] += value
        return add_neighbours(sums)


def norm(gradients: Sequence[Array], scale: float = 1.0) -> float:
    """The global norm of gradients that were scaled, each in the order of its parameter's memory."""
    total = sum_over_slots([one for gradient in gradients for one in leaf_sums(gradient)])
    return math.sqrt(total) / scale


def clip_factor(norm: float, most: float) -> float:
    """What gradients of this norm are multiplied by, a NaN if it is one; 1 if ``most`` is infinite."""
    return min(most / (norm + 1e-6), 1.0) if math.isfinite(most) else 1.0


def is_beyond(norm: float, most: float | None, dtypes: Sequence[np.dtype[Any]]) -> bool:
    """Whether a norm is not finite, or its square, once it is clipped, not so in the narrowest working format of such parameters."""
    narrow = any(dtype != np.float64 for dtype in dtypes)
    clipped = norm * (1.0 if most is None else clip_factor(norm, most))
    return not clipped * clipped <= float(np.finfo(np.float32 if narrow else np.float64).max)


@dataclass
class Scaler:
    """A loss scale that grows after ``interval`` steps without an infinity and backs off at one, as long as its inverse is finite."""

    scale: np.float32
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000
    tracker: int = 0

    def update(self, found: bool) -> None:
        """What follows a step."""
        self.tracker = 0 if found else self.tracker + 1
        with np.errstate(over="ignore"):
            if found:
                smaller = np.float32(float(self.scale) * self.backoff)
                if float(smaller) * float(np.finfo(np.float32).max) >= 1.0:
                    self.scale = smaller
            elif self.tracker == self.interval:
                self.tracker = 0
                grown = np.float32(float(self.scale) * self.growth)
                self.scale = grown if np.isfinite(grown) else self.scale


# ---- Bits ---------------------------------------------------------------------------------------------------------------------------


def bits(array: Array) -> Array:
    """The words of an array, every NaN made the same one: its payload and sign are not promised."""
    array = np.ascontiguousarray(array)
    words = array.view(f"u{array.dtype.itemsize}").copy()
    with np.errstate(invalid="ignore"):  # which a bfloat16's signaling NaN sets
        nans = np.isnan(array)
    words[nans] = np.array(np.nan, array.dtype).view(words.dtype)
    return words


def assert_same_bits(actual: Any, expected: Any, what: str = "") -> None:
    """Fail, showing the first difference, unless two arrays agree in format, shape and every bit."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype} against {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: {actual.shape} against {expected.shape}"
    differ = np.flatnonzero(bits(actual).reshape(-1) != bits(expected).reshape(-1))
    if differ.size:
        k = differ[0]
        a, b = actual.reshape(-1)[k], expected.reshape(-1)[k]
        raise AssertionError(f"{what}: {differ.size} of {actual.size} elements differ; element {k} is {a!r}, not {b!r}")
