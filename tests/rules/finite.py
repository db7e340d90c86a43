"""What an optimizer's states hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_adam import GpuOptimizer


def has_nan(array: Any) -> bool:
    return bool(np.isnan(np.asarray(array).astype(np.float64)).any())


def states_of(optimizer: GpuOptimizer, k: int = 0) -> dict[str, Any]:
    entry = optimizer.state_dict()["state"].get(k, {})
    return {key: value for key, value in entry.items() if isinstance(value, np.ndarray)}
