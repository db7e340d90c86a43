"""Convex losses that come one after another, their best fixed points in hindsight, and `GpuAdam` playing against them.

Several independent problems are played at once: a point, a gradient and a comparator have the shape (problems, dims), so that one step
serves all problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_adam import GpuAdam
from gpu_adam.schedules import exponential_decay, inverse_sqrt

Floats = NDArray[np.float64]

EPS = 1e-12
"""In place of the theorem's 0, so that an element that has seen no gradient yet stays where it is and does not become 0/0."""

PAPERS_DECAY = 1 - 1e-8
"""The λ that the paper names as an example."""

ROUNDING = 1e-12
"""A mean of up to 10^5 losses is not told apart from another one that is relatively closer than this."""


class Online(Protocol):
    """A sequence of losses f_1, f_2, … for each problem.

    Attributes:
        start: The first point.
    """

    start: Floats

    @property
    def box(self) -> float | None:
        """What the elements of a point are bounded by in size."""

    def gradient(self, t: int, point: Floats) -> Floats:
        """The gradient of loss ``t`` = 0, 1, … where it was met; the loss may have been chosen after the point."""

    def losses(self, points: Floats) -> Floats:
        """The losses of the first points, one point a step: from (steps, problems, dims) to (steps, problems)."""

    def best(self, steps: int) -> Floats:
        """The point in the box that has the smallest sum of the first losses."""


class Quadratics:
    r"""Random quadratics, :math:`f_t(\theta) = |A_t \theta - b_t|^2 / 2`, each flat in most directions.

    The entries of A are uniform, in columns of falling size so that gradients differ in scale; b is what a hidden point gives, and
    noise.
    """

    box = None

    def __init__(self, steps: int, problems: int = 8, dims: int = 6, rank: int = 2, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.start = np.zeros((problems, dims))
        self._a = rng.uniform(-1, 1, (steps, problems, rank, dims)) * np.linspace(1, 0.3, dims)
        hidden = rng.uniform(-1, 1, (problems, dims, 1))
        self._b = (self._a @ hidden)[..., 0] + rng.uniform(-0.5, 0.5, (steps, problems, rank))

    def gradient(self, t: int, point: Floats) -> Floats:
        a = self._a[t]
        off = (a @ point[..., None])[..., 0] - self._b[t]
        return (off[:, None] @ a)[:, 0]

    def losses(self, points: Floats) -> Floats:
        off = (self._a[: len(points)] @ points[..., None])[..., 0] - self._b[: len(points)]
        return (off**2).sum(axis=-1) / 2

    def best(self, steps: int) -> Floats:
        """From the normal equations."""
        a, b = self._a[:steps], self._b[:steps]
        squares = np.einsum("tpri,tprj->pij", a, a, optimize=True)
        return np.linalg.solve(squares, np.einsum("tpri,tpr->pi", a, b)[..., None])[..., 0]


class Logistic:
    r"""Logistic losses with L2, :math:`f_t(\theta) = \log(1 + e^{-y x^\top \theta}) + \mu |\theta|^2 / 2`.

    Feature k = 0, 1, … is there in one example of k + 1, as the words of a text are common and rare; the labels are drawn by the
    logistic model of a hidden point. Without µ the losses of few examples need have no smallest sum.
    """

    box = None
    decay = 0.01
    """µ"""

    def __init__(self, steps: int, problems: int = 8, dims: int = 8, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.start = np.zeros((problems, dims))
        present = rng.random((steps, problems, dims)) < 1 / np.arange(1, dims + 1)
        x = rng.uniform(-1, 1, present.shape) * present
        score = np.einsum("tpd,pd->tp", x, rng.uniform(-3, 3, (problems, dims)))
        self._yx = x * np.where(rng.random(score.shape) < 1 / (1 + np.exp(-score)), 1.0, -1.0)[..., None]

    def gradient(self, t: int, point: Floats) -> Floats:
        yx = self._yx[t]
        return self.decay * point - yx / (1 + np.exp((yx * point).sum(axis=-1, keepdims=True)))

    def losses(self, points: Floats) -> Floats:
        margin = (self._yx[: len(points)] * points).sum(axis=-1)
        return np.logaddexp(0, -margin) + self.decay / 2 * (points**2).sum(axis=-1)

    def best(self, steps: int) -> Floats:
        return np.stack([self._solve(yx) for yx in self._yx[:steps].transpose(1, 0, 2)])

    def _solve(self, yx: Floats) -> Floats:
        """Newton's method, on the mean loss, with halved steps as long as it rises.

        At the end the mean lies above its minimum by at most |gradient|²/(2µ), which is below 1e-18.
        """
        point = np.zeros(yx.shape[1])

        def mean(at: Floats) -> float:
            return float(np.logaddexp(0, -yx @ at).mean() + self.decay / 2 * at @ at)

        for _ in range(100):
            share = 1 / (1 + np.exp(yx @ point))
            slope = self.decay * point - share @ yx / len(yx)
            if slope @ slope < 2e-20:
                return point
            curvature = (yx.T * (share * (1 - share))) @ yx / len(yx) + self.decay * np.eye(point.size)
            move = np.linalg.solve(curvature, slope)
            while mean(point - move) > mean(point) * (1 + ROUNDING):
                move /= 2
            point = point - move
        raise ArithmeticError(f"the comparator of {len(yx)} logistic losses was not found in 100 of Newton's steps")


class Linear:
    r"""Linear losses, :math:`f_t(\theta) = g_t^\top \theta`, given beforehand."""

    def __init__(self, gradients: Floats, start: Floats, box: float = 1.0) -> None:
        self.start, self.box = start, box
        self._g = gradients

    def gradient(self, t: int, point: Floats) -> Floats:
        return self._g[t]

    def losses(self, points: Floats) -> Floats:
        return (self._g[: len(points)] * points).sum(axis=-1)

    def best(self, steps: int) -> Floats:
        """The corner that the sum of the gradients points away from."""
        return -self.box * np.sign(self._g[:steps].sum(axis=0))


class Zinkevich(Linear):
    """Zinkevich's setting (2003): points in a box, losses of any kind, each chosen when the point has been played.

    Linear losses are the hardest there. In half of the elements gradients are thrown as coins are, for which no algorithm's regret grows
    slower than √T; in the others an adversary, who has seen the point, charges it: the gradient has the point's sign, and a size in
    [1/2, 1].
    """

    def __init__(self, steps: int, problems: int = 16, dims: int = 6, seed: int = 2) -> None:
        rng = np.random.default_rng(seed)
        start = rng.uniform(-1, 1, (problems, dims))
        super().__init__(rng.choice([-1.0, 1.0], (steps, problems, dims)), start)
        self._charged = slice(dims // 2, None)
        self._g[..., self._charged] = rng.uniform(0.5, 1.0, (steps, problems, dims - dims // 2))

    def gradient(self, t: int, point: Floats) -> Floats:
        charged = self._g[t, :, self._charged]
        np.copysign(charged, point[:, self._charged], out=charged)
        return self._g[t]


@dataclass(frozen=True)
class Setting:
    """What the theorem leaves open.

    Attributes:
        alpha: α.
        beta1, beta2: β1, with β1² < √β2, and β2.
        decay: λ; at 1 the momentum stays, which the theorem does not allow.
    """

    alpha: float
    beta1: float
    beta2: float
    decay: float

    def __str__(self) -> str:
        decay = "1 − 1e-8" if self.decay == PAPERS_DECAY else f"{self.decay:g}"
        return f"α = {self.alpha:g}, β1 = {self.beta1:g}, β2 = {self.beta2:g}, λ = {decay}"


@dataclass(frozen=True)
class Run:
    """What happened in a run.

    Attributes:
        setting: What it ran with.
        points: θ_t, of shape (steps, problems, dims).
        gradients: g_t, likewise.
        seconds: v̂_T for each checkpoint T.
    """

    setting: Setting
    points: Floats
    gradients: Floats
    seconds: dict[int, Floats]


def play(problem: Online, steps: int, setting: Setting, checkpoints: Sequence[int] = (), **options: Any) -> Run:
    """Let `GpuAdam` play against the losses, with α/√t and β1·λ^(t-1), and project by clipping where there is a box.

    The bias of m is corrected by 1 - β1,t^t, which is Algorithm 1's where λ is 1, and soon 1 where it is not.

    Args:
        problem: The losses.
        steps: How many.
        setting: The hyperparameters.
        checkpoints: Numbers of steps after which v̂ is kept.
        options: Others of `GpuAdam`.
    """
    point, gradient = problem.start.copy(), np.zeros_like(problem.start)
    betas = exponential_decay(setting.beta1, setting.decay), setting.beta2
    optimizer = GpuAdam([point], lr=inverse_sqrt(setting.alpha), betas=betas, eps=EPS, **options)
    points, gradients = (np.empty((steps, *point.shape)) for _ in range(2))
    seconds, kept = {}, set(checkpoints)
    for t in range(steps):
        points[t] = point
        gradients[t] = gradient[...] = problem.gradient(t, point)
        optimizer.step([gradient])
        if problem.box is not None:
            np.clip(point, -problem.box, problem.box, out=point)
        if t + 1 in kept:
            correction = 1 - setting.beta2 ** (t + 1) if options.get("bias_correction", True) else 1.0
            seconds[t + 1] = optimizer.state_dict()["state"][0]["exp_avg_sq"] / correction
    return Run(setting, points, gradients, seconds)


def regret(problem: Online, run: Run, steps: int, best: Floats) -> Floats:
    """R(T) of each problem, for the first T steps and their comparator."""
    played = run.points[:steps]
    return (problem.losses(played) - problem.losses(np.broadcast_to(best, played.shape))).sum(axis=0)
