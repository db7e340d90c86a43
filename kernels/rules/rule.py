"""What an update rule is, and what all of them share.

A rule is a scalar function of one element: ``(p, g, s0, s1, s2, c) -> (p, s0, s1, s2)`` with the parameter, the gradient, up to three
states and the row of coefficients ``c``. It is made by a *maker* from the target's ``fma`` and ``sqrt``, so that one text serves the CPU
engine, the Numba CUDA kernels and the simulator. It contains no number: a Python literal would promote a float32 to float64. What it calls
beside these two, such as `decayed`, the maker has made too.

No rule makes a NaN of finite numbers (but for 0/0, where ε is 0). An accumulator of squares may be infinite, because the square of a
finite gradient is beyond the format: it then stays so, and its element rests.

The coefficients of step t are a scalar function too, in float64: the host calls it where it knows t, the engines compile it where t and
the gradient's scale are known on the device only. Both return the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from ..abi import (
    AVERAGE,
    AVERAGE_DECAY,
    AVERAGING,
    DECAY,
    DECOUPLED,
    EXPONENTIAL_AVERAGE,
    IS_DECOUPLED,
    L2,
    LR,
    MAX_STATES,
    MAXIMIZE,
    MEAN_AVERAGE,
    SCALE,
    SHRINK,
    SKIP,
    WEIGHT_DECAY,
)

Maker = Callable[[Callable[..., Any], Callable[..., Any]], Callable[..., Any]]


_TAKEN = {"param", "grad", "master", "average", "step"}
"""What a state dict and the buckets call other things."""


@dataclass(frozen=True, eq=False)
class Rule:
    """A rule, and the coefficients that it reads. Two are the same only if they are one object.

    Raises:
        ValueError: For a name that is no identifier, and for states that are too many, of the same name, or named like something else.

    Attributes:
        name: Its name, a legal identifier: kernels are called after it.
        states: The names of its state arrays, as in a state dict; at most ``MAX_STATES``.
        make: From ``(fma, sqrt)`` to the scalar function.
        coefficients: From ``(mul, sqrt, narrow, power)`` to the function ``(h, t, wide, row)`` that fills in the rule's own coefficients
            of step ``t`` from the record ``h``: see `gpu_adam.kernels.rules.coefficients`. Rules of one optimizer share it. A product that
            is added to something is a ``mul``, and a power of the step ``power(base, t)``: compilers for GPUs would round them otherwise
            than the host does.
        cuda: Of a rule of this package its type in CUDA C++, in namespace ``gpu_adam``.
        header: The file of ``kernels/rules/`` that defines the type.
    """

    name: str
    states: tuple[str, ...]
    make: Maker
    coefficients: Callable[..., Any]
    cuda: str = ""
    header: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"rule {self.name!r}: the name must be an identifier")
        if len(self.states) > MAX_STATES or len(set(self.states)) < len(self.states) or _TAKEN & set(self.states):
            raise ValueError(
                f"rule {self.name!r} has the states {self.states}: must be at most {MAX_STATES} different names, "
                f"none of {', '.join(sorted(_TAKEN))}"
            )

    @property
    def is_shipped(self) -> bool:
        """Whether it comes with this package, by whose sources its compiled kernels are known on disk, and so is there in CUDA C++ too.

        A changed copy of such a rule does not.
        """
        return _SHIPPED.get(self.name) is self

    def __reduce__(self) -> str | tuple[Any, ...]:
        # A shipped rule is the same object in every process.
        if self.is_shipped:
            return rule_named, (self.name,)
        return Rule, (self.name, self.states, self.make, self.coefficients, self.cuda, self.header)

    @property
    def symbol(self) -> str:
        """What its kernels' names begin with: a rule from elsewhere cannot take the place of a shipped one."""
        return self.name if self.is_shipped else f"own_{self.name}"


_SHIPPED: dict[str, Rule] = {}


def ship(rule: Rule) -> Rule:
    """A rule of this package, which its file registers here."""
    _SHIPPED[rule.name] = rule
    return rule


def shipped() -> dict[str, Rule]:
    """The rules of this package by name."""
    return dict(_SHIPPED)


def rule_named(name: str) -> Rule:
    """The rule of this package that is called ``name``; ``KeyError`` for any other."""
    return _SHIPPED[name]


def compiled(
    rule: Rule, fma: Callable[..., Any], sqrt: Callable[..., Any], compile: Callable[[Callable[..., Any]], Any]
) -> Any:
    """A rule's scalar function for a target, and the functions that its maker has made for it to call.

    Args:
        rule: The rule.
        fma: The target's fused multiply-add.
        sqrt: The target's square root.
        compile: What makes one of the target's functions of a Python function.
    """

    def with_helpers(function):
        for cell in function.__closure__ or ():
            called = cell.cell_contents
            if isinstance(called, FunctionType) and called is not fma and called is not sqrt:
                cell.cell_contents = with_helpers(called)
        return compile(function)

    return with_helpers(rule.make(fma, sqrt))


def decayed(fma: Callable[..., Any]) -> Callable[..., Any]:
    """``(w, v)``: an accumulator of squares less ``w`` of it; infinity where it is infinite.

    There the sum would be infinity less infinity, and a finite gradient whose square is beyond the format would make the parameter NaN one
    step later.
    """

    def decayed(w, v):
        x = fma(-w, v, v)
        # Minus infinity, which is no sum of squares, becomes a NaN.
        if x != x and v > -v:
            x = v
        return x

    return decayed


def decay(fma: Callable[..., Any], mul: Callable[..., Any]) -> Callable[..., Any]:
    """What comes before every rule: scale the gradient, then weight decay of either kind.

    Args:
        fma: The fused multiply-add.
        mul: Multiplication, rounded by itself: a rule may begin with a sum, and no compiler may contract the two.
    """

    def scale_and_decay(p, g, c):
        g = mul(c[SCALE], g)
        if c[L2]:
            g = fma(c[WEIGHT_DECAY], p, g)
        if c[DECOUPLED]:
            p = fma(c[SHRINK], p, p)
        return p, g

    return scale_and_decay


def average(fma: Callable[..., Any]) -> Callable[..., Any]:
    """What comes after a rule where an average of the parameters is kept: ``(average, p, c) -> average``.

    Both kinds are this one line: with the weight 1/t the plain mean of the parameters (Polyak), with ``(1-β)/(1-β^t)`` the exponential
    average of Kingma and Ba (2014), section 7.2, its bias already corrected: if ``s`` is the biased one, ``s/(1-β^t)`` moves by that
    share of its distance from the new parameter.
    """

    def averaged(e, p, c):
        return fma(c[AVERAGE], p, fma(-c[AVERAGE], e, e))

    return averaged


def power(mul: Callable[..., Any]) -> Callable[..., Any]:
    """``(base, exponent) -> base ** exponent``, by repeated squaring from the lowest bit up, so that every machine rounds alike."""

    def repeated_squaring(base, exponent):
        result = 1.0
        while exponent > 0:
            if exponent & 1:
                result = mul(result, base)
            base = mul(base, base)
            exponent >>= 1
        return result

    return repeated_squaring


def coefficients(
    mul: Callable[..., Any], narrow: Callable[..., Any], power: Callable[..., Any], own: Callable[..., Any]
) -> Callable[..., Any]:
    """``(h, t, factor, wide, row)``: fill a row with the coefficients of step ``t``, in float64, to be rounded once when stored.

    Args:
        mul: Multiplication, rounded by itself: no compiler may contract it with the subtraction that follows.
        narrow: ``(x, wide)``: ``x`` rounded to the working format, float64 if ``wide``, else float32; as a float64.
        power: See `power`.
        own: The rule's own, made by ``Rule.coefficients``.

    The arguments of the function: ``h`` a record (`gpu_adam.kernels.row`), ``t`` the step number, ``factor`` the clip factor over the loss
    scale, ``wide`` whether the working format is float64.
    """

    def fill(h, t, factor, wide, row):
        decays = h[DECAY] != 0.0
        decoupled = h[IS_DECOUPLED] != 0.0
        row[SCALE] = -factor if h[MAXIMIZE] != 0.0 else factor
        row[L2] = 1.0 if decays and not decoupled else 0.0
        row[DECOUPLED] = 1.0 if decays and decoupled else 0.0
        row[WEIGHT_DECAY] = h[DECAY]
        row[SHRINK] = mul(-h[LR], h[DECAY])
        row[SKIP] = 0.0
        row[AVERAGE] = 0.0
        if h[AVERAGING] == EXPONENTIAL_AVERAGE:
            w = narrow(1.0 - h[AVERAGE_DECAY], wide)
            row[AVERAGE] = w / (1.0 - power(1.0 - w, t))
        if h[AVERAGING] == MEAN_AVERAGE:
            row[AVERAGE] = 1.0 / t
        own(h, t, wide, row)

    return fill
