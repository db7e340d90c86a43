"""No reference to an array stays behind a step that keeps torch or NumPy from changing it, or its memory from being freed."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from gpu_adam import GpuAdam, GpuSgd  # noqa: E402
from tests.step.watched_memory import DEPRECATED, PACK, READING  # noqa: E402

pytestmark = DEPRECATED


@pytest.mark.parametrize("bound", [False, True])
@PACK
def test_nothing_keeps_torch_from_swapping_a_module(bound: bool, pack: bool) -> None:
    module = torch.nn.Linear(3, 2)
    optimizer = GpuAdam(module.named_parameters(), pack=pack)
    for _ in range(2):
        if bound:
            module(torch.ones(1, 3)).sum().backward()
            optimizer.step()
        else:
            optimizer.step([torch.ones(2, 3), torch.ones(2)])
    optimizer.zero_grad()
    if pack:
        for p in module.parameters():
            p.grad = None
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        module.double()
        with pytest.raises(ValueError, match=r"parameter 'weight' was float32 .* and is now float64"):
            optimizer.step([torch.ones(2, 3), torch.ones(2)])
        module.float()
        optimizer.step([torch.ones(2, 3), torch.ones(2)])
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@READING
def test_nothing_keeps_numpy_from_resizing_a_gradient(reading: None) -> None:
    optimizer = GpuSgd({"p": np.ones(6, np.float32)}, lr=1.0)
    gradient = np.ones(6, np.float32)
    optimizer.step([gradient])
    gradient.resize(7)
    with pytest.raises(ValueError, match=r"the gradient of parameter 'p' has shape \(7,\)"):
        optimizer.step([gradient])
    gradient.resize(6)
    optimizer.step([gradient])


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_gradients_that_were_given_are_let_go(library: str) -> None:
    class Array(np.ndarray):
        alive = 0

        def __del__(self) -> None:
            Array.alive -= 1

    params = [np.ones(6, np.float32) for _ in range(4)]
    optimizer = GpuSgd(params, lr=1.0)
    for _ in range(3):
        gradients: list[Any] = [np.ones(6, np.float32).view(Array) for _ in range(4)]
        Array.alive += 4
        if library == "torch":
            gradients = [torch.from_numpy(g) for g in gradients]
        optimizer.step(gradients)
        del gradients
        gc.collect()
        assert Array.alive == 0
