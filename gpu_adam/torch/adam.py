"""`Adam`; its engine is `gpu_adam.GpuAdam`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..optim.adam import GpuAdam
from .optimizer import TorchOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizer import Options


class Adam(TorchOptimizer):
    r"""Adam (Kingma and Ba, 2014), in the place of `torch.optim.Adam`.

    The arithmetic is that of `gpu_adam.GpuAdam`: correctly rounded operations in a fixed order, the same bits on CPUs and GPUs. It differs
    from PyTorch's in the last bits only.

    Args:
        params: As PyTorch takes them; see `gpu_adam.torch.optimizer.TorchOptimizer`, also for what all classes take and raise.
        lr: The learning rate, at least 0; a float, a tensor of one element, or a function of the step number t = 1, 2, ….
        betas: β1 and β2, in [0, 1).
        eps: ε, at least 0.
        weight_decay: At least 0; L2 decay, which is added to the gradient, or with ``decoupled_weight_decay=True`` that of AdamW.
        amsgrad: Whether to divide by the largest second moment so far.
        foreach, fused, capturable, differentiable: See `gpu_adam.torch.optimizer.TorchOptimizer`.
        maximize: Whether to follow the gradient upwards.
        decoupled_weight_decay: See ``weight_decay``.
        bias_correction: Whether to divide by :math:`1-\beta^t`.
        eps_hat: Whether ``eps`` is the paper's ε̂ (end of its section 2).
        options: This package's: ``pack``, ``max_grad_norm``, ``group_norms``, ``skip_nonfinite``, ``ema_decay``, ``polyak_average``,
            ``master_weights``, ``engine``.

    Example:
        >>> import torch
        >>> from gpu_adam.torch import Adam
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> opt = Adam([w], lr=0.1)
        >>> w.grad = torch.tensor([0.5, -0.5])
        >>> opt.step()
        >>> w.data
        tensor([-0.1000,  0.1000])
        >>> opt.state[w]["exp_avg"]
        tensor([ 0.0500, -0.0500])
    """

    _kind = GpuAdam

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        bias_correction: bool = True,
        eps_hat: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyperparameters = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
            "bias_correction": bias_correction,
            "eps_hat": eps_hat,
        }
        super().__init__(
            params,
            hyperparameters,
            foreach=foreach,
            fused=fused,
            differentiable=differentiable,
            capturable=capturable,
            **options,
        )
