"""No mode that the caller is in reaches what is saved, loaded or copied."""

from __future__ import annotations

import copy
import pickle
import platform
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from gpu_adam.casting import exact_casts
from tests.state.mixed_model import FORMATS, Model, assert_same, made, set_for, warnings_raised
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.strategies import values

torch = pytest.importorskip("torch")

MODES: dict[str, Callable[[], Any]] = {
    "default device meta": lambda: set_for(torch.set_default_device, "meta", None),
    "in a device": lambda: torch.device("meta"),
    "default dtype float64": lambda: set_for(torch.set_default_dtype, torch.float64, torch.float32),
    "default dtype bfloat16": lambda: set_for(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "inference mode": lambda: torch.inference_mode(),
    "no grad": lambda: torch.no_grad(),
    "errors raised": lambda: np.errstate(all="raise"),
    "warnings raised": warnings_raised,
    "subnormals flushed": lambda: set_for(torch.set_flush_denormal, True, False),
}


def used(model: Model, options: dict[str, Any], mode: Callable[[], Any]) -> list[Any]:
    """What a program leaves that saves, loads and copies in a mode, and is made outside of it."""
    grads = [model.grads(seed) for seed in range(5)]
    grads[0][0][0, 0] = 1e-40  # whose moments are subnormals
    optimizer = made(model, **options)
    optimizer.step(grads[0])
    left: list[Any] = []
    with mode():
        left.append(optimizer.state_dict())
        fresh = made(model, **options)
        fresh.load_state_dict(left[0])
        fresh.step(grads[1])
        left += [fresh.state_dict(), copy.deepcopy(fresh).state_dict(), pickle.loads(pickle.dumps(fresh)).state_dict()]
        fresh.reread_params()
        if "ema_decay" in options:
            left += [fresh.averaged_params, fresh.grad_norm]
            with fresh.averaged():
                left.append([p.detach().clone() for p in model.parameters()])
    fresh.step(grads[2])
    return [*left, fresh.state_dict(), [p.detach().clone() for p in model.parameters()]]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.5, "max_grad_norm": 1e3}], ids=["plain", "averaged"])
def test_no_mode_of_the_caller_reaches_what_is_saved_and_loaded(
    options: dict[str, Any], pack: bool, mode: Callable[[], Any]
) -> None:
    if mode is MODES["subnormals flushed"] and platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("the mode is MXCSR's, of x86-64")
    expected, found = (used(Model(), {**options, "pack": pack}, one) for one in (nullcontext, mode))
    assert float(expected[0]["state"][0]["exp_avg"][0, 0]) != 0.0, "the example has no subnormal to lose"
    assert_same(expected, found)
    for saved in found[:4]:
        for entry in saved["state"].values():
            for tensor in entry.values():
                assert not tensor.is_inference()
                assert not tensor.requires_grad
                tensor.add_(1)  # as in-place work and autograd must be able to


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the mode is MXCSR's, of x86-64")
@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_casts_are_exact_in_a_thread_that_flushes(source: str, target: str) -> None:
    numbers = values(DTYPES[source], 400, 3)
    with np.errstate(all="ignore"):
        expected = numbers.astype(DTYPES[target])
        again = expected.astype(np.float32)
    with set_for(torch.set_flush_denormal, True, False):
        with exact_casts():
            found = numbers.astype(DTYPES[target])
            back = found.astype(np.float32)
        assert (torch.tensor([1e-40]) * 1).item() == 0, "the thread's own mode must come back"
    assert_same_bits(found, expected)
    assert_same_bits(back, again)


def test_master_weights_are_reread_in_a_thread_that_flushes() -> None:
    p = np.array([1e-40, 1.0], DTYPES["bfloat16"])
    optimizer = GpuAdam([p], lr=0.0)
    optimizer.step([np.ones(2, np.float32)])
    saved = optimizer.state_dict()
    saved["state"][0]["master"] = (p.astype(np.float64) * (1 + 2.0**-12)).astype(np.float32)
    wanted = saved["state"][0]["master"].copy()
    with set_for(torch.set_flush_denormal, True, False):
        optimizer.load_state_dict(saved)
        optimizer.reread_params()
    assert_same_bits(optimizer.state_dict()["state"][0]["master"], wanted)
