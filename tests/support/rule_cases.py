"""Settings of every optimizer that the tests of the rules share: each option alone, and what changes what another one does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.shipped import OPTIMIZERS

Settings = dict[str, Any]

L2: Settings = {"weight_decay": 0.1}
DECOUPLED: Settings = {"weight_decay": 0.1, "decoupled_weight_decay": True}
MAXIMIZE: Settings = {"maximize": True, "weight_decay": 0.05}

SETTINGS: dict[str, dict[str, Settings]] = {
    "GpuAdam": {"defaults": {}, "amsgrad": {"amsgrad": True}},
    "GpuAdaMax": {"defaults": {}, "betas": {"betas": (0.6, 0.7), "eps": 1e-3}, "no momentum": {"betas": (0.0, 0.9)}},
    "GpuSgd": {
        "defaults": {},
        "momentum": {"lr": 0.01, "momentum": 0.9},
        "dampened": {"lr": 0.01, "momentum": 0.7, "dampening": 0.3},
        "nesterov": {"lr": 0.01, "momentum": 0.9, "nesterov": True},
    },
    "GpuAdaGrad": {
        "defaults": {},
        "lr_decay": {"lr_decay": 0.1, "eps": 1e-3},
        "start": {"initial_accumulator_value": 0.3},
        "start and lr_decay": {"initial_accumulator_value": 0.3, "lr_decay": 0.1},
    },
    "GpuRmsProp": {
        "defaults": {},
        "alpha": {"alpha": 0.6, "eps": 1e-3},
        "momentum": {"momentum": 0.9, "lr": 1e-3},
        "centered": {"centered": True, "alpha": 0.9},
        "centered, momentum": {"centered": True, "momentum": 0.7, "alpha": 0.9},
    },
    "GpuAdaDelta": {"defaults": {}, "rho": {"rho": 0.6, "eps": 1e-3, "lr": 0.3}},
    "GpuNAdam": {
        "defaults": {},
        "momentum_decay": {"momentum_decay": 0.1, "betas": (0.6, 0.9)},
        "no momentum": {"betas": (0.0, 0.9), "eps": 1e-3},
    },
}
"""By optimizer and name. No factor is a power of two, with which products do not round."""

COMMON: dict[str, Settings] = {"": {}, "L2": L2, "decoupled": DECOUPLED, "maximize": MAXIMIZE}

_NAMED = {
    ", ".join(filter(None, (name, key, what))): (name, {**settings, **common})
    for name, table in SETTINGS.items()
    for key, settings in table.items()
    for what, common in COMMON.items()
    # Decay comes before a rule, whichever its options.
    if not what or key == list(table)[-1]
}
CASES = list(_NAMED.values())
each = pytest.mark.parametrize(("name", "settings"), CASES, ids=list(_NAMED))
"""Parametrize over the cases, as arguments ``name`` and ``settings``."""


TORCH = {
    "GpuAdam": "Adam",
    "GpuAdaMax": "Adamax",
    "GpuSgd": "SGD",
    "GpuAdaGrad": "Adagrad",
    "GpuRmsProp": "RMSprop",
    "GpuAdaDelta": "Adadelta",
    "GpuNAdam": "NAdam",
}
"""PyTorch's names of them."""

STATES = {
    "GpuAdam": {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
    "GpuAdaMax": {"exp_avg", "exp_inf"},
    "GpuSgd": {"momentum_buffer"},
    "GpuAdaGrad": {"sum"},
    "GpuRmsProp": {"square_avg", "grad_avg", "momentum_buffer"},
    "GpuAdaDelta": {"square_avg", "acc_delta"},
    "GpuNAdam": {"exp_avg", "exp_avg_sq"},
}
"""PyTorch's names of their states."""

assert SETTINGS.keys() == TORCH.keys() == STATES.keys() == OPTIMIZERS.keys(), "an optimizer has no settings here"


def gradients(sizes: tuple[int, ...], steps: int, dtype: Any = np.float64, seed: int = 7) -> list[list[np.ndarray]]:
    """For each step a gradient of each size, of several magnitudes from element to element, but never tiny ones."""
    rng = np.random.default_rng(seed)
    scales = [10.0 ** rng.uniform(-1, 1, size) for size in sizes]
    return [[(scale * (0.3 + rng.standard_normal(scale.size))).astype(dtype) for scale in scales] for _ in range(steps)]


def parameters(sizes: tuple[int, ...], dtype: Any = np.float64) -> list[np.ndarray]:
    """Parameters between 0.5 and 1.5."""
    rng = np.random.default_rng(3)
    return [rng.uniform(0.5, 1.5, size).astype(dtype) for size in sizes]
