"""Arrays that are refused, or taken, as parameters and as gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuSgd

f32 = np.float32
PACK = pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])


def refused_as_parameter(array: Any, error: type[Exception], message: str, **options: Any) -> None:
    with pytest.raises(error, match="parameter 'w' " + message):
        GpuSgd({"w": array}, lr=1.0, **options)
    optimizer = GpuSgd({"v": np.ones(3, f32)}, lr=1.0)
    with pytest.raises(error, match="parameter 'w' " + message):
        optimizer.add_param_group({"params": {"w": array}})
    assert len(optimizer.param_groups) == 1


def refused_as_gradient(array: Any, error: type[Exception], message: str, shape: tuple[int, ...] = (3,)) -> None:
    p = np.ones(shape, f32)
    optimizer = GpuSgd({"w": p}, lr=1.0)
    for _ in range(2):  # as the first one, and after another
        with pytest.raises(error, match="the gradient of parameter 'w' " + message):
            optimizer.step({"w": array})
        with pytest.raises(error, match="the gradient of parameter 'w' " + message):
            optimizer.grads = {"w": array}
        optimizer.step({"w": np.zeros(shape, f32)})
    assert (p == 1).all()


def taken_as_gradient(array: Any, pack: bool = False) -> None:
    p = np.full((1, 3), 5, f32)
    optimizer = GpuSgd({"w": p}, lr=1.0, pack=pack)
    for count in (1, 2):
        optimizer.step({"w": array})
        assert (optimizer.params["w"] == 5 - count).all()
