"""The update rules by name, and what all of them share.

A rule is a scalar function of one element: ``(p, g, s0, s1, s2, c) -> (p, s0, s1, s2)`` with the parameter, the gradient, up to three
states and the row of coefficients ``c``. It is made by a *maker* from the target's ``fma`` and ``sqrt``, so that one text serves the CPU
engine, the Numba CUDA kernels and the simulator. It contains no number: a Python literal would promote a float32 to float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .adam import adam

# Numbers that every row of coefficients begins with.
SCALE = 0
"""What the gradient is multiplied by: -1 to maximize, else 1, both of them exact."""
L2 = 1
"""1 where weight decay is added to the gradient, else 0."""
DECOUPLED = 2
"""1 where weight decay shrinks the parameter (AdamW), else 0."""
WEIGHT_DECAY = 3
"""The factor of L2 decay."""
SHRINK = 4
"""The factor of decoupled decay, ``fl(-lr * weight_decay)``."""
FIRST_OWN = 5
"""Where the rule's own coefficients begin."""

ScalarRule = Callable[..., Any]
Maker = Callable[[Callable[..., Any], Callable[..., Any]], ScalarRule]


@dataclass(frozen=True)
class Rule:
    """One registered rule.

    Attributes:
        name: Its name in a specialization and in CUDA C++.
        states: The names of its state arrays, as in a state dict.
        make: From ``(fma, sqrt)`` to the scalar function.
        cuda: Its type in CUDA C++, in namespace ``gpu_adam``.
    """

    name: str
    states: tuple[str, ...]
    make: Maker
    cuda: str


RULES = {
    rule.name: rule
    for rule in (
        Rule("adam", ("exp_avg", "exp_avg_sq"), adam, "Adam<false>"),
        Rule("adam_amsgrad", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), partial(adam, amsgrad=True), "Adam<true>"),
    )
}


def decay(fma: Callable[..., Any], sqrt: Callable[..., Any]) -> Callable[..., Any]:
    """What comes before every rule: scale the gradient, then weight decay of either kind."""

    def scale_and_decay(p, g, c):
        g = c[SCALE] * g
        if c[L2]:
            g = fma(c[WEIGHT_DECAY], p, g)
        if c[DECOUPLED]:
            p = fma(c[SHRINK], p, p)
        return p, g

    return scale_and_decay
