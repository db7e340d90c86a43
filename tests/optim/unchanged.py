"""All that a refused call must leave alone, and the check that it does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam

f32 = np.float32


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, f32)


def everything(optimizer: GpuAdam) -> list[Any]:
    """All that a refused call must leave alone."""
    saved = optimizer.state_dict()
    params = [p.tobytes() for group in optimizer.param_groups for p in group["params"]]
    states = [
        (key, {k: v if k == "step" else v.tobytes() for k, v in state.items()}) for key, state in saved["state"].items()
    ]
    return [params, states, repr(saved["param_groups"]), [len(group["params"]) for group in optimizer.param_groups]]


def refused(optimizer: GpuAdam, act: Callable[[], Any], error: type[Exception], message: str) -> None:
    """Check that ``act`` raises ``error``, whose message matches, and has changed nothing, also for the next step."""
    before, twin = everything(optimizer), copy.deepcopy(optimizer)
    with pytest.raises(error, match=message) as caught:
        act()
    assert type(caught.value) is error
    assert everything(optimizer) == before
    good = [ones(*p.shape) for group in optimizer.param_groups for p in group["params"]]
    optimizer.step(copy.copy(good))
    twin.step(good)
    assert everything(optimizer) == everything(twin)
