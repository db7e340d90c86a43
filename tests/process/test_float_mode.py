"""The bits do not depend on a floating-point mode that a library has set for the calling thread."""

from __future__ import annotations

import math
import platform

import numpy as np
import pytest

from gpu_adam import GpuAdam

torch = pytest.importorskip("torch")


x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the mode is MXCSR's, of x86-64")


@x86
@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
def test_subnormals_survive_in_a_thread_that_flushes_them(pack, strided):
    # Made here, since NumPy rounds in the thread's mode too.
    start, grads = np.full((4, 4), 1e-40, np.float32), np.full((4, 8), 1e-38, np.float32)
    grad = grads[:, ::2] if strided else grads[:, :4].copy()

    def stepped() -> np.ndarray:
        opt = GpuAdam([start.copy()], lr=5e-11, pack=pack)
        opt.step([grad])
        return np.array([np.asarray(opt.params[0]), opt.state_dict()["state"][0]["exp_avg"]]).view(np.int32)

    expected = stepped()
    assert torch.set_flush_denormal(True)
    try:
        flushed = torch.tensor([1e-40]) * 1
        found = stepped()
        still_flushed = torch.tensor([1e-40]) * 1
    finally:
        torch.set_flush_denormal(False)
    assert np.array_equal(found, expected)
    assert expected.all(), "the example has no subnormals left to lose"
    assert flushed.item() == still_flushed.item() == 0, "the thread's own mode must come back"


@x86
def test_subnormals_are_measured_in_a_thread_that_flushes_them():
    grad = np.full(16, 1e-40, np.float32)
    expected = 4 * float(grad[0])
    opt = GpuAdam([np.ones(16, np.float32)], max_grad_norm=math.inf)
    assert torch.set_flush_denormal(True)
    try:
        opt.step([grad])
    finally:
        torch.set_flush_denormal(False)
    assert float(opt.grad_norm) == pytest.approx(expected, rel=1e-12, abs=0)


@x86
def test_rows_of_subnormals_are_summed_in_a_thread_that_flushes_them():
    rows = np.full((2, 4), 1e-39, np.float32)
    expected = rows[0] + rows[1]
    p = np.zeros((3, 4), np.float32)
    opt = GpuAdam([p], betas=(0.0, 0.0), lr=0.0)
    assert torch.set_flush_denormal(True)
    try:
        opt.step([(np.array([2, 2]), rows)])
    finally:
        torch.set_flush_denormal(False)
    assert opt.state_dict()["state"][0]["exp_avg"][2].tobytes() == expected.tobytes()
