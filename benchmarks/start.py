"""What the contenders of a case begin with, and what a contender is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np

from .cases import Case
from .libraries import BFLOAT16, Array
from .rules import RULES

LIMIT = "limit"

EPS = {"plain": 1e-8, "clip": 1e-4, "average": 1e-8, "scale": 1e-4, "rows": 1e-15, "absent": 1e-8}
"""Adam's, by variant. It hardly sees how large a gradient is; so large an ε does, and shows whether it was scaled. So small a one makes
PyTorch's SparseAdam, which adds it to the uncorrected root, the same as Adam."""

MAX_NORM = 1.0
LOSS_SCALE = 1024.0
DECAY = 0.999
"""Of the average."""

WEIGHT_DECAY = {"weight_decay": 0.01, "decoupled_weight_decay": True}
"""AdamW's, of training loops."""


@dataclass(frozen=True)
class Start:
    """The values that all contenders of a case begin with, on the host.

    Attributes:
        case: The case.
        params: The parameters.
        grads: The gradients.
        rows: With ``"rows"`` the gradient's row numbers and row values, of which ``grads`` is the sum.
    """

    case: Case
    params: list[Array]
    grads: list[Array]
    rows: tuple[Array, Array] | None = None

    @classmethod
    def of(cls, case: Case) -> Start:
        """Normally distributed parameters, and gradients a hundredth of their size."""
        # One block, repeated: 64 Mi random numbers would take longer than most contenders.
        rng = np.random.default_rng(2014)
        block = rng.standard_normal(min(case.elements, 1_000_003), np.float32)
        dtype = BFLOAT16 if case.format == "bfloat16" else np.dtype(case.format)

        def arrays(values: Array) -> list[Array]:
            flat = np.resize(values.astype(dtype), case.elements)
            bounds = np.cumsum([int(np.prod(shape)) for shape in case.shapes])[:-1]
            return [part.reshape(shape) for part, shape in zip(np.split(flat, bounds), case.shapes, strict=True)]

        params, grads = arrays(block), arrays(block[::-1] * np.float32(0.01))
        if case.variant != "rows":
            return cls(case, params, grads)
        height, width = case.shapes[0]
        numbers = rng.integers(0, height, case.rows)
        # Rows come more than once by chance; for the check the first one does, and the last one comes.
        numbers[[0, case.rows // 2, -1]] = 0, 0, height - 1
        values = grads[0][: case.rows].copy()
        dense = np.zeros((height, width), np.float32)
        np.add.at(dense, numbers, values)
        return cls(case, params, [dense], (numbers, values))

    @property
    def eps(self) -> float:
        """Adam's ε."""
        return EPS[self.case.variant]

    @property
    def hyperparameters(self) -> Mapping[str, Any]:
        """Of all contenders."""
        own = RULES[self.case.optimizer].hyperparameters
        if self.case.optimizer != "adam":
            return own
        return {**own, "eps": self.eps, **(WEIGHT_DECAY if self.case.gradients == "new" else {})}

    @cached_property
    def clip_factor(self) -> float:
        """What clipping the norm to ``MAX_NORM`` multiplies the gradients by."""
        norm = sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in self.grads))
        return min(1.0, MAX_NORM / (norm + 1e-6))

    def absent(self, t: int) -> frozenset[int]:
        """The tensors that have no gradient in step t = 1, 2, …: the same in every run, and others in each step.

        In the first one all have theirs: in it a packed `gpu_adam.torch.AdamW` gives every parameter a gradient, of zeros if need be.
        """
        if t == 1:
            return frozenset()
        rng = np.random.default_rng((2017, t))
        return frozenset(rng.choice(len(self.case.shapes), self.case.absent, replace=False).tolist())

    @cached_property
    def scaled_grads(self) -> list[Array]:
        """The gradients of a loss that was multiplied by ``LOSS_SCALE``."""
        return [np.asarray(g * np.float32(LOSS_SCALE)) for g in self.grads]


@dataclass
class Contender:
    """One set of parameters, and one or more ways to step them.

    Attributes:
        steps: What to time, by label.
        params: The parameters, on the host, in float32; ``None`` for what computes nothing.
        master: Whether 16-bit parameters are kept in float32 as well.
        factor: What it multiplies the gradients by.
        slack: What a step may be off beyond the tolerance, as a share of the learning rate.
        averages: The average that it keeps of the parameters, on the host.
        weight: What the average gives to the new parameter in step t = 1, 2, ….
        before: What comes before each step, untimed: what another makes in a training loop.
        absent: The tensors that have no gradient in step t = 1, 2, ….
        wait: What waits for its last step, where the device's own waiting does not know of it.
        optimizer: One of ours, which knows its plan.
    """

    steps: dict[str, Callable[[], Any]]
    params: Callable[[], list[Array]] | None = None
    master: bool = True
    factor: float = 1.0
    slack: float = 0.0
    averages: Callable[[], list[Array]] | None = None
    weight: Callable[[int], float] = lambda t: 1.0
    before: Callable[[], Any] | None = None
    absent: Callable[[int], Collection[int]] = lambda t: ()
    wait: Callable[[], Any] | None = None
    optimizer: Any = None
    taken: int = field(default=0, init=False)
