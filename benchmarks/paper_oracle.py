"""Adam and its relatives as the papers have them, in float64 NumPy: an opinion of our own on what the package should compute.

It imports nothing of `gpu_adam`, and follows Kingma and Ba (arXiv 1412.6980v9), Algorithm 1 and the end of section 2; Reddi, Kale and
Kumar (2018) for AMSGrad; Loshchilov and Hutter (2019) for decoupled decay; for the others the papers that their classes name. The order
of operations is the papers', not the package's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]


class Rule:
    """One parameter: what comes before the update is the same for all optimizers, `_move` is the paper's formula."""

    def __init__(
        self,
        theta: Any,
        lr: Any = 1e-3,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        **own: Any,
    ) -> None:
        self.theta = np.array(theta, np.float64)
        self.t = 0
        self.lr, self.weight_decay = lr, weight_decay
        self.decoupled, self.maximize = decoupled_weight_decay, maximize
        self._begin(**own)

    def _begin(self) -> None:
        raise NotImplementedError

    def _move(self, g: Float64s, lr: float) -> Float64s:
        raise NotImplementedError

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
        self.theta = self.theta - self._move(g, lr)
        return self.theta


class Adam(Rule):
    """Kingma and Ba (2014), Algorithm 1, with what others have added to it."""

    def _begin(
        self,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        amsgrad: bool = False,
        bias_correction: bool = True,
        eps_hat: bool = False,
    ) -> None:
        (self.beta1, self.beta2), self.eps = betas, eps
        self.amsgrad, self.bias_correction, self.eps_hat = amsgrad, bias_correction, eps_hat
        self.m, self.v, self.v_max = (np.zeros_like(self.theta) for _ in range(3))

    def _move(self, g: Float64s, lr: float) -> Float64s:
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g**2
        self.v_max = np.maximum(self.v_max, self.v)
        v = self.v_max if self.amsgrad else self.v
        correction1 = 1 - self.beta1**self.t if self.bias_correction else 1.0
        correction2 = 1 - self.beta2**self.t if self.bias_correction else 1.0
        if self.eps_hat:
            return lr * np.sqrt(correction2) / correction1 * self.m / (np.sqrt(v) + self.eps)
        return lr * (self.m / correction1) / (np.sqrt(v / correction2) + self.eps)


class AdaMax(Rule):
    """Kingma and Ba (2014), Algorithm 2; there is no ε in it, but PyTorch adds one to |g|."""

    def _begin(self, betas: tuple[float, float] = (0.9, 0.999), eps: float = 0.0) -> None:
        (self.beta1, self.beta2), self.eps = betas, eps
        self.m, self.u = np.zeros_like(self.theta), np.zeros_like(self.theta)

    def _move(self, g: Float64s, lr: float) -> Float64s:
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.u = np.maximum(self.beta2 * self.u, np.abs(g) + self.eps)
        return lr / (1 - self.beta1**self.t) * self.m / self.u


class Momentum(Rule):
    """Polyak's heavy ball as Sutskever et al. (2013), equations 1 and 2, have it, the learning rate outside; Nesterov's looks ahead."""

    def _begin(self, momentum: float = 0.0, nesterov: bool = False) -> None:
        self.momentum, self.nesterov = momentum, nesterov
        self.velocity = np.zeros_like(self.theta)

    def _move(self, g: Float64s, lr: float) -> Float64s:
        self.velocity = self.momentum * self.velocity + g
        return lr * (g + self.momentum * self.velocity if self.nesterov else self.velocity)


class AdaGrad(Rule):
    """Duchi, Hazan and Singer (2011), with the diagonal matrix; its δ is what the root is made larger by."""

    def _begin(self, eps: float = 1e-10) -> None:
        self.eps = eps
        self.history: list[Float64s] = []

    def _move(self, g: Float64s, lr: float) -> Float64s:
        self.history.append(g)
        # The norm of all gradients so far, computed anew.
        return lr * g / (self.eps + np.sqrt(np.sum(np.square(self.history), axis=0)))


class RmsProp(Rule):
    """Tieleman and Hinton (2012); centered as in Graves (2013), equations 38 to 45, ε outside of the root."""

    def _begin(self, alpha: float = 0.99, eps: float = 1e-8, momentum: float = 0.0, centered: bool = False) -> None:
        self.alpha, self.eps, self.momentum, self.centered = alpha, eps, momentum, centered
        self.n, self.mean, self.delta = (np.zeros_like(self.theta) for _ in range(3))

    def _move(self, g: Float64s, lr: float) -> Float64s:
        self.n = self.alpha * self.n + (1 - self.alpha) * g**2
        self.mean = self.alpha * self.mean + (1 - self.alpha) * g
        variance = self.n - self.mean**2 if self.centered else self.n
        self.delta = self.momentum * self.delta + lr * g / (np.sqrt(variance) + self.eps)
        return self.delta


class AdaDelta(Rule):
    """Zeiler (2012), Algorithm 1, times a learning rate."""

    def _begin(self, rho: float = 0.9, eps: float = 1e-6) -> None:
        self.rho, self.eps = rho, eps
        self.of_g, self.of_x = np.zeros_like(self.theta), np.zeros_like(self.theta)

    def _move(self, g: Float64s, lr: float) -> Float64s:
        self.of_g = self.rho * self.of_g + (1 - self.rho) * g**2
        x = -np.sqrt(self.of_x + self.eps) / np.sqrt(self.of_g + self.eps) * g
        self.of_x = self.rho * self.of_x + (1 - self.rho) * x**2
        return -lr * x


class NAdam(Rule):
    """Dozat (2016), Algorithm 2, in his longer text with a momentum that rises: μ_t = β1 (1 - 0.96^(tψ)/2)."""

    def _begin(
        self, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, momentum_decay: float = 4e-3
    ) -> None:
        (self.beta1, self.beta2), self.eps, self.psi = betas, eps, momentum_decay
        self.m, self.n = np.zeros_like(self.theta), np.zeros_like(self.theta)

    def _mu(self, t: int) -> float:
        return self.beta1 * (1 - 0.5 * 0.96 ** (t * self.psi))

    def _move(self, g: Float64s, lr: float) -> Float64s:
        t = self.t
        products = np.cumprod([self._mu(i) for i in range(1, t + 2)])
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.n = self.beta2 * self.n + (1 - self.beta2) * g**2
        g_hat, m_hat, n_hat = g / (1 - products[t - 1]), self.m / (1 - products[t]), self.n / (1 - self.beta2**t)
        return lr * ((1 - self._mu(t)) * g_hat + self._mu(t + 1) * m_hat) / (np.sqrt(n_hat) + self.eps)
