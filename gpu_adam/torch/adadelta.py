"""`Adadelta`; its engine is `gpu_adam.GpuAdaDelta`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..optim.adadelta import GpuAdaDelta
from .optimizer import TorchOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizer import Options


class Adadelta(TorchOptimizer):
    r"""AdaDelta (Zeiler, 2012), in the place of `torch.optim.Adadelta`.

    The arithmetic is that of `gpu_adam.GpuAdaDelta`, the same bits on CPUs and GPUs; it differs from PyTorch's in the last bits only.

    Args:
        params: As PyTorch takes them; see `gpu_adam.torch.optimizer.TorchOptimizer`, also for what all classes take and raise.
        lr: The learning rate, at least 0; a float, a tensor of one element, or a function of the step number t = 1, 2, ….
        rho: ρ, the decay of the averages, in [0, 1).
        eps: ε, at least 0.
        weight_decay: At least 0; added to the gradient times the parameter.
        maximize: Whether to follow the gradient upwards.
        foreach, capturable, differentiable: See `gpu_adam.torch.optimizer.TorchOptimizer`.
        decoupled_weight_decay: Whether weight decay shrinks the parameter by ``lr * weight_decay`` and is not added to the gradient.
        options: This package's: ``pack``, ``max_grad_norm``, ``group_norms``, ``skip_nonfinite``, ``ema_decay``, ``polyak_average``,
            ``master_weights``, ``engine``.

    Example:
        >>> import torch
        >>> from gpu_adam.torch import Adadelta
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> opt = Adadelta([w], lr=0.1)
        >>> w.grad = torch.tensor([0.5, -0.5])
        >>> opt.step()
        >>> w.data
        tensor([-0.0003,  0.0003])
    """

    _kind = GpuAdaDelta

    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyperparameters = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(
            params,
            hyperparameters,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            **options,
        )
