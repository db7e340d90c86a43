"""`SGD`; its engine is `gpu_adam.GpuSgd`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..optim.sgd import GpuSgd
from .optimizer import TorchOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizer import Options


class SGD(TorchOptimizer):
    r"""Stochastic gradient descent, with momentum or Nesterov's momentum, in the place of `torch.optim.SGD`.

    The arithmetic is that of `gpu_adam.GpuSgd`, the same bits on CPUs and GPUs; it differs from PyTorch's in the last bits only.

    Args:
        params: As PyTorch takes them; see `gpu_adam.torch.optimizer.TorchOptimizer`, also for what all classes take and raise.
        lr: The learning rate, at least 0; a float, a tensor of one element, or a function of the step number t = 1, 2, ….
        momentum: μ, at least 0. With 0 there is no state.
        dampening: d, at least 0; the first step's gradient is not dampened.
        weight_decay: At least 0; added to the gradient times the parameter.
        nesterov: Whether the momentum is Nesterov's, which needs one above 0 and no dampening.
        maximize: Whether to follow the gradient upwards.
        foreach, differentiable, fused, capturable: See `gpu_adam.torch.optimizer.TorchOptimizer`.
        decoupled_weight_decay: Whether weight decay shrinks the parameter by ``lr * weight_decay`` and is not added to the gradient.
        options: This package's: ``pack``, ``max_grad_norm``, ``group_norms``, ``skip_nonfinite``, ``ema_decay``, ``polyak_average``,
            ``master_weights``, ``engine``.

    Example:
        >>> import torch
        >>> from gpu_adam.torch import SGD
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> opt = SGD([w], lr=0.1, momentum=0.9)
        >>> w.grad = torch.tensor([0.5, -0.5])
        >>> opt.step()
        >>> w.data
        tensor([-0.0500,  0.0500])
    """

    _kind = GpuSgd

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyperparameters = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(
            params,
            hyperparameters,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
            capturable=capturable,
            **options,
        )
