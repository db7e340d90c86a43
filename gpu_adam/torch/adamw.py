"""`AdamW`; its engine is `gpu_adam.GpuAdam` with decoupled weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .adam import Adam

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizer import Options


class AdamW(Adam):
    """AdamW (Loshchilov and Hutter, 2019), in the place of `torch.optim.AdamW`: `Adam` whose weight decay shrinks the parameter itself.

    Args:
        params: As PyTorch takes them; see `gpu_adam.torch.optimizer.TorchOptimizer`, also for what all classes take and raise.
        lr: The learning rate, at least 0; a float, a tensor of one element, or a function of the step number t = 1, 2, ….
        betas: β1 and β2, in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0; each step multiplies the parameter by 1 − lr·λ.
        amsgrad: Whether to divide by the largest second moment so far.
        maximize: Whether to follow the gradient upwards.
        foreach, fused, capturable, differentiable: See `gpu_adam.torch.optimizer.TorchOptimizer`.
        bias_correction, eps_hat: As of `Adam`.
        options: This package's: ``pack``, ``max_grad_norm``, ``group_norms``, ``skip_nonfinite``, ``ema_decay``, ``polyak_average``,
            ``master_weights``, ``engine``.

    Example:
        >>> import torch
        >>> from gpu_adam.torch import AdamW
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> opt = AdamW([w], lr=0.1, weight_decay=0.5)
        >>> w.grad = torch.zeros(2)
        >>> opt.step()
        >>> w.data
        tensor([0.9500, 0.9500])
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        bias_correction: bool = True,
        eps_hat: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._refuse_unknown(options)  # before they are taken for Adam's
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            bias_correction=bias_correction,
            eps_hat=eps_hat,
            **options,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # Whatever was loaded, AdamW stays AdamW, as in PyTorch.
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
