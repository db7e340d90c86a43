"""`GpuNAdam`; its rule is in ``kernels/rules/nadam.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kernels.rules.nadam import BETA1, BETA2, EPSILON, NADAM, PRODUCT, Q
from ..rules.algorithm import Algorithm
from ..rules.hyperparameters import Number, Scheduled
from .base import GpuOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import Options


class GpuNAdam(GpuOptimizer):
    r"""NAdam (Dozat, 2016): Adam with Nesterov's momentum.

    .. math::
        m &= \beta_1 m + (1-\beta_1) g, \qquad v = \beta_2 v + (1-\beta_2) g^2, \qquad
        \mu_t = \beta_1 \left(1 - \tfrac12\, 0.96^{t \psi}\right) \\
        \theta &= \theta - \frac{\alpha}{\sqrt{v / (1-\beta_2^t)} + \epsilon}
        \left(\frac{\mu_{t+1}}{1 - \prod_{i=1}^{t+1} \mu_i} m + \frac{1 - \mu_t}{1 - \prod_{i=1}^{t} \mu_i} g\right)

    each operation rounded as `gpu_adam.kernels.nadam` states.

    Args:
        params: The parameters: see `GpuOptimizer`, also for further arguments and errors.
        lr: The learning rate α, at least 0; or a function of the step number t = 1, 2, …; or a 0-dimensional array.
        betas: β1 and β2, in [0, 1), or functions of t. Bias is corrected as if the value of step t had always held.
        eps: ε, at least 0. With 0 an element whose gradients were all zero becomes 0/0, which is NaN.
        weight_decay: At least 0, or a function of t.
        momentum_decay: ψ, at least 0.

    Example:
        >>> import numpy as np
        >>> from gpu_adam import GpuNAdam
        >>> w = np.zeros(3, np.float32)
        >>> opt = GpuNAdam([w], lr=0.1)
        >>> for _ in range(200):
        ...     opt.step([w - 1])  # the gradient of (w - 1)²/2
        >>> bool(abs(w - 1).max() < 0.01)
        True
    """

    algorithm = Algorithm(
        (NADAM,),
        (
            *Number.pair("betas", BETA1, BETA2, below=1.0),
            Number("eps", EPSILON, keeps_apart=True),
            Number("momentum_decay", Q, convert=lambda decay: 0.96**decay),
        ),
        scalars={"mu_product": PRODUCT},
    )

    def __init__(
        self,
        params: Any,
        lr: Scheduled = 2e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        momentum_decay: float = 4e-3,
        **options: Unpack[Options],
    ) -> None:
        hyperparameters = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
        }
        super().__init__(params, hyperparameters, **options)
