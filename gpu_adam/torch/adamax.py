"""`Adamax`; its engine is `gpu_adam.GpuAdaMax`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..optim.adamax import GpuAdaMax
from .optimizer import TorchOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizer import Options


class Adamax(TorchOptimizer):
    r"""AdaMax (Kingma and Ba, 2014, section 7.1), in the place of `torch.optim.Adamax`.

    The arithmetic is that of `gpu_adam.GpuAdaMax`, the same bits on CPUs and GPUs; it differs from PyTorch's in the last bits only.

    Args:
        params: As PyTorch takes them; see `gpu_adam.torch.optimizer.TorchOptimizer`, also for what all classes take and raise.
        lr: The learning rate, at least 0; a float, a tensor of one element, or a function of the step number t = 1, 2, ….
        betas: β1 and β2, in [0, 1).
        eps: ε, at least 0.
        weight_decay: At least 0; added to the gradient times the parameter.
        maximize: Whether to follow the gradient upwards.
        foreach, differentiable, capturable: See `gpu_adam.torch.optimizer.TorchOptimizer`.
        decoupled_weight_decay: Whether weight decay shrinks the parameter by ``lr * weight_decay`` and is not added to the gradient.
        options: This package's: ``pack``, ``max_grad_norm``, ``group_norms``, ``skip_nonfinite``, ``ema_decay``, ``polyak_average``,
            ``master_weights``, ``engine``.

    Example:
        >>> import torch
        >>> from gpu_adam.torch import Adamax
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> opt = Adamax([w], lr=0.1)
        >>> w.grad = torch.tensor([0.5, -0.5])
        >>> opt.step()
        >>> w.data
        tensor([-0.1000,  0.1000])
    """

    _kind = GpuAdaMax

    def __init__(
        self,
        params: Any,
        lr: Any = 2e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyperparameters = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(
            params,
            hyperparameters,
            foreach=foreach,
            differentiable=differentiable,
            capturable=capturable,
            **options,
        )
