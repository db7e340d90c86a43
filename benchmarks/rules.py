"""The optimizers that are measured, as data: ours, PyTorch's, their hyperparameters, and what they compute, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpu_adam import GpuAdaDelta, GpuAdaGrad, GpuAdam, GpuAdaMax, GpuNAdam, GpuRmsProp, GpuSgd

from . import paper_oracle

LR, BETAS = 1e-3, (0.9, 0.999)


@dataclass(frozen=True)
class Rule:
    """One optimizer.

    Attributes:
        ours: The class of this package.
        torch: PyTorch's name of its own.
        fused: Whether PyTorch has it fused, in one kernel for all of a step.
        states: Arrays that it keeps for each parameter.
        hyperparameters: What it is given, ours and PyTorch's: with gradients of about 0.01 a step is about ``LR``, as the check expects.
        paper: What it computes, by the formulas of its paper: made of a parameter and the hyperparameters, and stepped.
    """

    ours: Any
    torch: str
    fused: bool
    states: int
    hyperparameters: Mapping[str, Any]
    paper: type[paper_oracle.Rule]


_OF_ADAM = {"lr": LR, "betas": BETAS, "eps": 1e-8}

RULES = {
    "adam": Rule(GpuAdam, "Adam", True, 2, _OF_ADAM, paper_oracle.Adam),
    "sgd": Rule(GpuSgd, "SGD", True, 1, {"lr": 100 * LR, "momentum": 0.9}, paper_oracle.Momentum),
    "adagrad": Rule(GpuAdaGrad, "Adagrad", True, 1, {"lr": LR, "eps": 1e-10}, paper_oracle.AdaGrad),
    "rmsprop": Rule(
        GpuRmsProp, "RMSprop", False, 1, {"lr": 0.1 * LR, "alpha": 0.99, "eps": 1e-8}, paper_oracle.RmsProp
    ),
    "adamax": Rule(GpuAdaMax, "Adamax", False, 2, _OF_ADAM, paper_oracle.AdaMax),
    "adadelta": Rule(GpuAdaDelta, "Adadelta", False, 2, {"lr": 1.0, "rho": 0.9, "eps": 1e-6}, paper_oracle.AdaDelta),
    "nadam": Rule(GpuNAdam, "NAdam", False, 2, {**_OF_ADAM, "momentum_decay": 4e-3}, paper_oracle.NAdam),
}
"""By what a case calls them."""
