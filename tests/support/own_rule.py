"""A rule that the package does not know, as a user writes one: Lion (Chen et al., 2023)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpu_adam import Algorithm, GpuOptimizer, Number, Rule
from gpu_adam.kernels.abi import LR, OWN_0, OWN_1, own
from tests.support.reference import DTYPES, Array, assert_same_bits, clip_factor, fma, norm

W1, W2, A = own(3)


def lion(fma: Callable[..., Any], sqrt: Callable[..., Any]) -> Callable[..., Any]:
    def update(p, g, m, s1, s2, c):  # type: ignore[no-untyped-def]
        u = fma(c[W1], g, fma(-c[W1], m, m))
        m = fma(c[W2], g, fma(-c[W2], m, m))
        if u > -u:
            p = p + c[A]
        elif u < -u:
            p = p - c[A]
        return p, m, s1, s2

    return update


def lion_coefficients(mul: Any, sqrt: Any, narrow: Any, power: Any) -> Callable[..., Any]:
    def coefficients(h, t, wide, row):  # type: ignore[no-untyped-def]
        row[W1] = 1.0 - h[OWN_0]
        row[W2] = 1.0 - h[OWN_1]
        row[A] = -h[LR]

    return coefficients


class Lion(GpuOptimizer):
    algorithm = Algorithm(
        [Rule("lion", ("exp_avg",), lion, lion_coefficients)], Number.pair("betas", OWN_0, OWN_1, below=1.0)
    )

    def __init__(self, params: Any, lr: Any = 1e-4, betas: Any = (0.9, 0.99), weight_decay: Any = 0.0, **options: Any):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay}, **options)


class Written:
    """Lion's arithmetic for one parameter, written out, with decoupled decay."""

    def __init__(self, p: Array, betas: tuple[float, float], weight_decay: float) -> None:
        self.working = np.dtype(np.float64 if p.dtype == np.float64 else np.float32)
        self.stored = p.dtype
        self.p = p.astype(self.working)
        self.m = np.zeros(p.shape, self.working)
        self.betas, self.weight_decay = betas, weight_decay

    def step(self, g: Array, lr: float, factor: float) -> Array:
        """The parameter after a step with gradients that are multiplied by ``factor``."""
        fl = self.working.type
        w1, w2, a, k = (fl(x) for x in (1 - self.betas[0], 1 - self.betas[1], -lr, -lr * self.weight_decay))
        g = fl(factor) * g.astype(self.working)
        self.p = fma(k, self.p, self.p)
        u = fma(w1, g, fma(-w1, self.m, self.m))
        self.m = fma(w2, g, fma(-w2, self.m, self.m))
        self.p = np.where(u > 0, self.p + a, np.where(u < 0, self.p - a, self.p))
        return self.p.astype(self.stored)


SIZES = {"float32": 130, "bfloat16": 37, "float64": 9}


def train(
    finish: Callable[[], None] = lambda: None, watch: Callable[[Array], Any] = lambda array: None, **options: Any
) -> None:
    """Some steps with clipping and a loss scale, over several formats, in place or packed, each compared with what is written."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(size).astype(DTYPES[name]) for name, size in SIZES.items()]
    written = [Written(p, (0.9, 0.99), 0.1) for p in params]
    opt = Lion(
        params, lr=lambda t: 0.01 / t, weight_decay=0.1, decoupled_weight_decay=True, max_grad_norm=0.5, **options
    )
    for t in range(1, 5):
        grads = [rng.standard_normal(size).astype(DTYPES[name]) for name, size in SIZES.items()]
        for array in (*opt.params, *grads):
            watch(array)
        opt.step(grads, grad_scale=8.0)
        finish()
        factor = clip_factor(norm(grads, 8.0), 0.5) / 8.0
        for p, one, g in zip(opt.params, written, grads, strict=True):
            assert_same_bits(p, one.step(g, 0.01 / t, factor), f"step {t}")
    state = opt.state_dict()["state"]
    for k, one in enumerate(written):
        assert_same_bits(state[k]["exp_avg"], one.m, "exp_avg")
