"""Parameters of more than 2^31 elements, and parameters on several devices, of every library."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.libraries import Layout, Torch, dense, host
from tests.support.library_cases import HOST, ON_CPU, STREAMED, Case
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.strategies import values

# The numbers hold signalling NaNs.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


def step_a_constant(case: Case, size: int) -> None:
    """One float16 parameter without master weights, by a gradient of stride 0 and by itself, against one element of it."""
    p = ones(case, size)
    one = np.ones(1, np.float16)
    gradient = case.array(np.ones(1, np.float16), Layout((size,), (0,)))
    options: dict[str, Any] = {"lr": 0.25, "eps": 0.0, "master_weights": False}
    for of_itself in (False, True):
        optimizer, other = GpuAdam([p], engine=case.engine, **options), GpuAdam([one], engine="cpu", **options)
        before = one.copy()
        optimizer.step([p if of_itself else gradient])
        other.step([one if of_itself else np.ones(1, np.float16)])
        assert one[0] != before[0]
        chunk = 1 << 28
        for start in range(0, size, chunk):
            assert bool((p[start : start + chunk] == float(one[0])).all()), f"in the chunk from {start}"
        assert_same_bits(host(p[-1:]), one)
        del optimizer
        gc.collect()


def ones(case: Case, size: int) -> Any:
    if case.library.name.startswith("torch"):
        import torch

        return torch.ones(size, dtype=torch.float16, device=case.library.device)
    module = np if case is HOST else sys.modules["cupy"]
    return module.ones(size, np.float16)


@pytest.mark.parametrize("of", [case.param for case in (*ON_CPU[:2], *STREAMED)])
def test_a_gradient_that_is_one_number_and_one_that_is_the_parameter(of: Case) -> None:
    of.require()
    step_a_constant(of, 100_003)


@pytest.mark.slow
@pytest.mark.alone
def test_above_2_to_the_31_elements(streamed_case: Case) -> None:
    size = (1 << 31) + 5
    if free_bytes(streamed_case) < 24 << 30:
        pytest.skip("needs 24 GiB of free GPU memory")
    try:
        step_a_constant(streamed_case, size)
    finally:
        gc.collect()
        free_bytes(streamed_case)


def free_bytes(case: Case) -> int:
    """What is free on the device when the pools have given back what they can."""
    if "cupy" in sys.modules:
        sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
    if case.library.name == "torch cuda":
        torch = sys.modules["torch"]
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info()[0])
    return int(sys.modules["cupy"].cuda.runtime.memGetInfo()[0])


@contextmanager
def on_device(case: Case, index: int) -> Iterator[None]:
    if case.library.name == "cupy":
        import cupy

        with cupy.cuda.Device(index):
            yield
    else:
        import torch

        with torch.cuda.device(index):
            yield


def device_count(case: Case) -> int:
    module = sys.modules["cupy"].cuda.runtime if case.library.name == "cupy" else sys.modules["torch"].cuda
    return int(module.getDeviceCount() if case.library.name == "cupy" else module.device_count())


def current_device(case: Case) -> int:
    module = sys.modules["cupy"].cuda.runtime if case.library.name == "cupy" else sys.modules["torch"].cuda
    return int(module.getDevice() if case.library.name == "cupy" else module.current_device())


def test_two_devices_in_one_optimizer(streamed_case: Case) -> None:
    if device_count(streamed_case) < 2:
        pytest.skip("needs two GPUs")
    torch = streamed_case.library.name == "torch cuda"
    cases = [replace(streamed_case, library=Torch(f"cuda:{k}")) if torch else streamed_case for k in (0, 1)]
    numbers = [values(DTYPES["float32"], 307, k) for k in range(2)]
    params, twins = [], [one[:300].copy() for one in numbers]
    for k, case in enumerate(cases):
        with on_device(case, k):
            params.append(case.array(numbers[k], dense(300)))
    optimizer, other = GpuAdam(params, engine=streamed_case.engine), GpuAdam(twins, engine="cpu")
    for step in range(4):
        gradients = [values(DTYPES["float32"], 307, 10 * step + k) for k in range(2)]
        there = []
        for k, case in enumerate(cases):
            with on_device(case, k):
                there.append(case.array(gradients[k], dense(300)))
        before = current_device(streamed_case)
        optimizer.step(there)
        assert current_device(streamed_case) == before
        other.step([gradient[:300] for gradient in gradients])
    with pytest.raises(ValueError, match=r"the gradient of parameter 0 .* lives on cuda:1: must be on cuda:0"):
        optimizer.step(there[::-1])
    for k, (found, expected) in enumerate(zip(params, twins, strict=True)):
        with on_device(streamed_case, k):
            assert_same_bits(host(found), expected)
