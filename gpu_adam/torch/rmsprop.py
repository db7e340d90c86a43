"""`RMSprop`; its engine is `gpu_adam.GpuRmsProp`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..optim.rmsprop import GpuRmsProp
from .optimizer import TorchOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizer import Options


class RMSprop(TorchOptimizer):
    r"""RMSProp (Tieleman and Hinton, 2012), plain or centred, in the place of `torch.optim.RMSprop`.

    The arithmetic is that of `gpu_adam.GpuRmsProp`, the same bits on CPUs and GPUs; it differs from PyTorch's in the last bits only.

    Args:
        params: As PyTorch takes them; see `gpu_adam.torch.optimizer.TorchOptimizer`, also for what all classes take and raise.
        lr: The learning rate, at least 0; a float, a tensor of one element, or a function of the step number t = 1, 2, ….
        alpha: α, the decay of the squares' average, in [0, 1).
        eps: ε, at least 0.
        weight_decay: At least 0; added to the gradient times the parameter.
        momentum: μ, at least 0.
        centered: Whether the squares are taken around the gradients' average.
        maximize: Whether to follow the gradient upwards.
        capturable, foreach, differentiable: See `gpu_adam.torch.optimizer.TorchOptimizer`.
        decoupled_weight_decay: Whether weight decay shrinks the parameter by ``lr * weight_decay`` and is not added to the gradient.
        options: This package's: ``pack``, ``max_grad_norm``, ``group_norms``, ``skip_nonfinite``, ``ema_decay``, ``polyak_average``,
            ``master_weights``, ``engine``.

    Example:
        >>> import torch
        >>> from gpu_adam.torch import RMSprop
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> opt = RMSprop([w], lr=0.1)
        >>> w.grad = torch.tensor([0.5, -0.5])
        >>> opt.step()
        >>> w.data
        tensor([-1.0000,  1.0000])
    """

    _kind = GpuRmsProp

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyperparameters = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(
            params,
            hyperparameters,
            capturable=capturable,
            foreach=foreach,
            differentiable=differentiable,
            **options,
        )
