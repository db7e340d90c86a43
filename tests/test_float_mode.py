"""The bits do not depend on a floating-point mode that a library has set for the calling thread."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from gpu_adam import GpuAdam

torch = pytest.importorskip("torch")


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the mode is MXCSR's, of x86-64")
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
