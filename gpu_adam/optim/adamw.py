"""`GpuAdamW`; its rule is Adam's, in ``kernels/rules/adam.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..kernels.rules.rule import Rule
from ..rules.hyperparameters import Scheduled
from .adam import GpuAdam, adam_rule, algorithm_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import Options


def _choose(group: Mapping[str, Any], where: str) -> Rule:
    if not group["decoupled_weight_decay"]:
        raise ValueError(f"{where} has decoupled_weight_decay=False: GpuAdamW decouples it; use GpuAdam for L2 decay")
    return adam_rule(group, where)


class GpuAdamW(GpuAdam):
    r"""AdamW (Loshchilov and Hutter, 2019): Adam with decoupled weight decay, on GPUs and CPUs with the same bits.

    Step :math:`t` moves a parameter :math:`\theta` with gradient :math:`g` by

    .. math::
        \theta &\leftarrow \theta - \alpha \lambda \theta \\
        m &= \beta_1 m + (1-\beta_1) g, \qquad v = \beta_2 v + (1-\beta_2) g^2 \\
        \theta &\leftarrow \theta - \alpha \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}

    where α is the learning rate of the step and λ the weight decay, as in PyTorch's ``AdamW``: the paper's λ is α times this one. The
    operations are those of `GpuAdam` with ``decoupled_weight_decay=True``, and so are the bits. I. Loshchilov and F. Hutter, *Decoupled
    Weight Decay Regularization*, ICLR 2019, arXiv:1711.05101.

    Args:
        params: The parameters: see `GpuOptimizer`, also for further arguments and errors; not ``decoupled_weight_decay``, which is always
            on, in each group and in a state dict too.
        lr: The learning rate α, at least 0; or a function of the step number t = 1, 2, … (see `gpu_adam.schedules`); or a
            0-dimensional array.
        betas: β1 and β2, in [0, 1), or functions of t. Bias is corrected as if the value of step t had always held.
        eps: ε, at least 0. With 0 an element whose gradients were all zero becomes 0/0, which is NaN.
        weight_decay: λ, at least 0, or a function of t.
        amsgrad: Whether to divide by the largest second moment so far (Reddi, Kale and Kumar, 2018).
        bias_correction: Whether to divide by :math:`1-\beta^t`.
        eps_hat: Whether ``eps`` is the ε̂ of Adam's paper; see `GpuAdam`.

    Example:
        >>> import numpy as np
        >>> from gpu_adam import GpuAdamW
        >>> w = np.array([1.0, -2.0], np.float32)
        >>> opt = GpuAdamW([w], lr=0.1)
        >>> opt.step([np.zeros(2, np.float32)])  # without a gradient what is left is the decay, by lr * weight_decay
        >>> w
        array([ 0.999, -1.998], dtype=float32)
    """

    algorithm = algorithm_of(_choose)

    def __init__(
        self,
        params: Any,
        lr: Scheduled = 1e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 1e-2,
        *,
        amsgrad: bool = False,
        bias_correction: bool = True,
        eps_hat: bool = False,
        **options: Unpack[Options],
    ) -> None:
        if "decoupled_weight_decay" in options:
            raise TypeError(
                "GpuAdamW() got an unexpected keyword argument 'decoupled_weight_decay': its weight decay is always decoupled; "
                "use GpuAdam for L2 decay"
            )
        options["decoupled_weight_decay"] = True
        own = {"amsgrad": amsgrad, "bias_correction": bias_correction, "eps_hat": eps_hat}
        super().__init__(params, lr, betas, eps, weight_decay, **own, **options)
