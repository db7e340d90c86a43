"""An optimizer's states, as NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_adam import GpuOptimizer


def states_of(optimizer: GpuOptimizer, k: int = 0) -> dict[str, Any]:
    entry = optimizer.state_dict()["state"].get(k, {})
    return {key: value for key, value in entry.items() if isinstance(value, np.ndarray)}
