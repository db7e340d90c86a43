"""`Adagrad`; its engine is `gpu_adam.GpuAdaGrad`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..optim.adagrad import GpuAdaGrad
from .optimizer import TorchOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizer import Options


class Adagrad(TorchOptimizer):
    r"""AdaGrad (Duchi, Hazan and Singer, 2011), in the place of `torch.optim.Adagrad`.

    The arithmetic is that of `gpu_adam.GpuAdaGrad`, the same bits on CPUs and GPUs; it differs from PyTorch's in the last bits only.

    Args:
        params: As PyTorch takes them; see `gpu_adam.torch.optimizer.TorchOptimizer`, also for what all classes take and raise.
        lr: The learning rate, at least 0; a float, a tensor of one element, or a function of the step number t = 1, 2, ….
        lr_decay: η, at least 0.
        weight_decay: At least 0; added to the gradient times the parameter.
        initial_accumulator_value: What the sum of squares begins with, at least 0.
        eps: ε, at least 0.
        maximize: Whether to follow the gradient upwards.
        foreach, differentiable, fused, capturable: See `gpu_adam.torch.optimizer.TorchOptimizer`.
        decoupled_weight_decay: Whether weight decay shrinks the parameter by ``lr * weight_decay`` and is not added to the gradient.
        options: This package's: ``pack``, ``max_grad_norm``, ``group_norms``, ``skip_nonfinite``, ``ema_decay``, ``polyak_average``,
            ``master_weights``, ``engine``.

    Example:
        >>> import torch
        >>> from gpu_adam.torch import Adagrad
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> opt = Adagrad([w], lr=0.1)
        >>> w.grad = torch.tensor([0.5, -0.5])
        >>> opt.step()
        >>> w.data
        tensor([-0.1000,  0.1000])
    """

    _kind = GpuAdaGrad

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyperparameters = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
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
