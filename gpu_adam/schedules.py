"""Schedules: functions of the step number t = 1, 2, …, for ``lr``, each of ``betas``, and ``weight_decay``.

>>> import numpy as np
>>> from gpu_adam import GpuAdam
>>> from gpu_adam.schedules import cosine, exponential_decay
>>> opt = GpuAdam(
...     [np.ones(3, np.float32)],
...     lr=cosine(1e-3, steps=10_000, warmup_steps=500),
...     betas=(exponential_decay(0.9, 1 - 1e-8), 0.999),
... )
>>> opt.param_groups[0]["lr"]
cosine(lr=0.001, steps=10000, end=0.0, warmup_steps=500)

They are values: schedules of the same arguments are equal, they can be pickled, and they print as the call that makes them. Any other
function of t does as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import cos, pi, sqrt
from typing import Any

from .casting import in_ieee_mode
from .checks import MOST_WORDS, Range, from_zero, number, whole
from .messages import shown

_FACTOR = Range(0.0, 1.0, has_low=False, has_high=True)

# Classes in lower case, as `functools.partial` is one: to whoever calls them they are functions that return a function.


@dataclass(frozen=True)
class constant:  # noqa: N801
    r"""The same value at each step, after a linear warm-up.

    .. math:: \alpha_t = \alpha \min(1, t / w)

    Args:
        lr: The value α, at least 0.
        warmup_steps: The steps w until it is reached, at least 0.

    Raises:
        TypeError, ValueError: For an argument out of its range.

    >>> warmed = constant(0.1, warmup_steps=4)
    >>> [warmed(t) for t in (1, 2, 4, 1000)]
    [0.025, 0.05, 0.1, 0.1]
    """

    lr: float
    warmup_steps: int = 0

    @in_ieee_mode
    def __post_init__(self) -> None:
        _set(self, lr=_number(self, "lr"), warmup_steps=_whole(self, "warmup_steps", 0))

    @in_ieee_mode
    def __call__(self, t: int) -> float:
        """The value of step ``t``."""
        return _warmed(self.lr, _numbered(t), self.warmup_steps)


@dataclass(frozen=True)
class _Falling:
    """From ``lr`` at the end of a linear warm-up to ``end`` at step ``steps``, along a curve."""

    lr: float
    steps: int
    end: float = field(default=0.0, kw_only=True)
    warmup_steps: int = field(default=0, kw_only=True)

    @in_ieee_mode
    def __post_init__(self) -> None:
        warmup = _whole(self, "warmup_steps", 0)
        # Above the step that has ``lr`` itself, so that there are two ends.
        steps = _whole(self, "steps", max(warmup, 1) + 1)
        _set(self, lr=_number(self, "lr"), steps=steps, end=_number(self, "end"), warmup_steps=warmup)

    @in_ieee_mode
    def __call__(self, t: int) -> float:
        """The value of step ``t``."""
        peak = max(self.warmup_steps, 1)
        if _numbered(t) <= peak:
            return _warmed(self.lr, t, self.warmup_steps)
        if t >= self.steps:
            return self.end
        # In this form rounding leaves the values in their order.
        return self.end + self._share((t - peak) / (self.steps - peak)) * (self.lr - self.end)

    def _share(self, x: float) -> float:
        """How much of ``lr`` there is, from 1 to 0, at the part ``x`` of the way."""
        raise NotImplementedError


@dataclass(frozen=True)
class linear(_Falling):  # noqa: N801
    r"""A straight line from ``lr`` to ``end``, after a linear warm-up.

    .. math::
        \alpha_t = \alpha_{\text{end}} + (1 - x) (\alpha - \alpha_{\text{end}}), \qquad
        x = \frac{t - \max(w, 1)}{n - \max(w, 1)}

    Args:
        lr: The value α at the end of the warm-up (without one, at step 1), at least 0.
        steps: The step n that has ``end``, as every later one has; above ``warmup_steps``, and at least 2.
        end: The last value, at least 0.
        warmup_steps: The steps w that rise, α·t/w, at least 0.

    Raises:
        TypeError, ValueError: For an argument out of its range.

    >>> falling = linear(0.5, steps=6, end=0.1, warmup_steps=2)
    >>> [round(falling(t), 3) for t in (1, 2, 4, 6, 1000)]
    [0.25, 0.5, 0.3, 0.1, 0.1]
    """

    def _share(self, x: float) -> float:
        return 1.0 - x


@dataclass(frozen=True)
class cosine(_Falling):  # noqa: N801
    r"""Half a period of a cosine from ``lr`` to ``end``, after a linear warm-up (Loshchilov and Hutter, 2016, equation 5).

    .. math::
        \alpha_t = \alpha_{\text{end}} + \frac{1 + \cos \pi x}{2} (\alpha - \alpha_{\text{end}}), \qquad
        x = \frac{t - \max(w, 1)}{n - \max(w, 1)}

    Args:
        lr: The value α at the end of the warm-up (without one, at step 1), at least 0.
        steps: The step n that has ``end``, as every later one has; above ``warmup_steps``, and at least 2.
        end: The last value, at least 0.
        warmup_steps: The steps w that rise, α·t/w, at least 0.

    Raises:
        TypeError, ValueError: For an argument out of its range.

    >>> falling = cosine(0.5, steps=6, end=0.1, warmup_steps=2)
    >>> [round(falling(t), 3) for t in (1, 2, 3, 4, 5, 6, 1000)]
    [0.25, 0.5, 0.441, 0.3, 0.159, 0.1, 0.1]
    """

    def _share(self, x: float) -> float:
        return (1.0 + cos(pi * x)) / 2.0


@dataclass(frozen=True)
class inverse_sqrt:  # noqa: N801
    r"""The decay for which the paper bounds the regret (Kingma and Ba, 2014, Theorem 4.1).

    .. math:: \alpha_t = \alpha / \sqrt{t}

    Args:
        lr: The first value α, at least 0.

    Raises:
        TypeError, ValueError: For an argument out of its range.

    >>> falling = inverse_sqrt(0.5)
    >>> [falling(t) for t in (1, 4, 100)]
    [0.5, 0.25, 0.05]
    """

    lr: float

    @in_ieee_mode
    def __post_init__(self) -> None:
        _set(self, lr=_number(self, "lr"))

    @in_ieee_mode
    def __call__(self, t: int) -> float:
        """The value of step ``t``."""
        return self.lr / sqrt(_numbered(t))


@dataclass(frozen=True)
class exponential_decay:  # noqa: N801
    r"""A constant factor from step to step, which is how Theorem 4.1 lets β1 decay (Kingma and Ba, 2014).

    .. math:: \beta_{1,t} = \beta_1 \lambda^{t-1}

    Args:
        beta: The first value β1, in [0, 1).
        decay: The factor λ, in (0, 1]; the paper suggests 1 - 10⁻⁸.

    Raises:
        TypeError, ValueError: For an argument out of its range.

    >>> falling = exponential_decay(0.5, 0.5)
    >>> [falling(t) for t in (1, 2, 3)]
    [0.5, 0.25, 0.125]
    """

    beta: float
    decay: float

    @in_ieee_mode
    def __post_init__(self) -> None:
        decay = _FACTOR.check(_number(self, "decay"), "decay", f" of {_name(self)}")
        _set(self, beta=number(self.beta, "beta", _name(self), from_zero(1.0)), decay=decay)

    @in_ieee_mode
    def __call__(self, t: int) -> float:
        """The value of step ``t``."""
        return float(self.beta * self.decay ** (_numbered(t) - 1))


def _warmed(value: float, t: int, steps: int) -> float:
    return value if t >= steps else value * (t / steps)


def _numbered(t: int) -> int:
    if not 1 <= t <= MOST_WORDS:
        raise ValueError(f"t={shown(t)}: steps are numbered from 1 to {MOST_WORDS}")
    return t


def _name(schedule: Any) -> str:
    return f"the schedule {type(schedule).__name__}"


def _number(schedule: Any, name: str) -> float:
    """An attribute as a float, checked to be at least 0 and finite."""
    return number(getattr(schedule, name), name, _name(schedule), from_zero())


def _whole(schedule: Any, name: str, least: int) -> int:
    """An attribute as an int, checked to be at least ``least``."""
    return whole(getattr(schedule, name), name, least, MOST_WORDS, f" of {_name(schedule)}")


def _set(schedule: Any, **values: Any) -> None:
    """What was checked and converted in the place of what was given, which a frozen dataclass allows in this way only."""
    for name, value in values.items():
        object.__setattr__(schedule, name, value)
