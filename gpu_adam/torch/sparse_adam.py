"""`SparseAdam`; its engine is `gpu_adam.GpuAdam`, in the form with ε̂."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .adam import Adam

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizer import Options


class SparseAdam(Adam):
    """Adam for sparse gradients, in the place of `torch.optim.SparseAdam`: only the elements that have a gradient, and their moments, move.

    ``eps`` is added where PyTorch's class adds it, to the root of the second moment before that is corrected (the paper's ε̂).

    Args:
        params: Dense tensors with sparse gradients; see `gpu_adam.torch.optimizer.TorchOptimizer`, also for what all classes take
            and raise.
        lr: The learning rate, at least 0; a float, a tensor of one element, or a function of the step number t = 1, 2, ….
        betas: β1 and β2, in [0, 1).
        eps: ε̂, at least 0.
        maximize: Whether to follow the gradient upwards.
        options: This package's: ``pack``, ``max_grad_norm``, ``group_norms``, ``skip_nonfinite``, ``ema_decay``, ``polyak_average``,
            ``master_weights``, ``engine``.

    Raises:
        ValueError: For a parameter that is sparse itself, or complex.
        RuntimeError: From ``step``, for a dense gradient: use `Adam`.

    Example:
        >>> import torch
        >>> from gpu_adam.torch import SparseAdam
        >>> table = torch.nn.Embedding(4, 2, sparse=True)
        >>> before = table.weight.detach().clone()
        >>> opt = SparseAdam(table.parameters(), lr=0.1)
        >>> table(torch.tensor([1, 3])).sum().backward()
        >>> opt.step()
        >>> (table.weight != before).any(1)
        tensor([False,  True, False,  True])
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._refuse_unknown(options)  # before they are taken for Adam's
        super().__init__(params, lr, betas, eps, maximize=maximize, eps_hat=True, **options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # Whatever was loaded: a state of `Adam` has the other form.
        for group in self.param_groups:
            group["eps_hat"] = True

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        params = group.get("params")
        for index, one in enumerate([params] if isinstance(params, torch.Tensor) else params or ()):
            p = one[1] if isinstance(one, tuple) and len(one) == 2 else one
            if isinstance(p, torch.Tensor) and p.layout is not torch.strided:
                raise ValueError(
                    f"parameter {index} has layout {p.layout}: SparseAdam requires dense parameter tensors"
                )
            if isinstance(p, torch.Tensor) and p.is_complex():
                raise ValueError(
                    f"parameter {index} has dtype {p.dtype}: SparseAdam does not support complex parameters"
                )

    def _engine_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.grad.layout is torch.strided:
                    raise RuntimeError("SparseAdam does not support dense gradients, please consider Adam instead")
        super()._engine_step()
