"""Adam as the paper has it, in float64 NumPy: an opinion of our own on what the package should compute.

It imports nothing of `gpu_adam`, and follows Kingma and Ba (arXiv 1412.6980v9), Algorithm 1 and the end of section 2; Reddi, Kale and
Kumar (2018) for AMSGrad; Loshchilov and Hutter (2019) for decoupled decay. The order of operations is the papers', not the package's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]


class Adam:
    """One parameter and its moments."""

    def __init__(
        self,
        theta: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        amsgrad: bool = False,
        maximize: bool = False,
        bias_correction: bool = True,
        eps_hat: bool = False,
    ) -> None:
        self.theta = np.array(theta, np.float64)
        self.m = np.zeros_like(self.theta)
        self.v = np.zeros_like(self.theta)
        self.v_max = np.zeros_like(self.theta)
        self.t = 0
        self.lr, (self.beta1, self.beta2), self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.decoupled, self.amsgrad, self.maximize = decoupled_weight_decay, amsgrad, maximize
        self.bias_correction, self.eps_hat = bias_correction, eps_hat

    def step(self, gradient: Any) -> Float64s:
        """Move the parameter, and return it."""
        g = np.array(gradient, np.float64)
        self.t += 1
        lr = self.lr(self.t) if callable(self.lr) else self.lr
        if self.maximize:
            g = -g
        if self.decoupled:
            self.theta = self.theta * (1 - lr * self.weight_decay)
        else:
            g = g + self.weight_decay * self.theta
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g**2
        self.v_max = np.maximum(self.v_max, self.v)
        v = self.v_max if self.amsgrad else self.v
        correction1 = 1 - self.beta1**self.t if self.bias_correction else 1.0
        correction2 = 1 - self.beta2**self.t if self.bias_correction else 1.0
        if self.eps_hat:
            self.theta = self.theta - lr * np.sqrt(correction2) / correction1 * self.m / (np.sqrt(v) + self.eps)
        else:
            self.theta = self.theta - lr * (self.m / correction1) / (np.sqrt(v / correction2) + self.eps)
        return self.theta
