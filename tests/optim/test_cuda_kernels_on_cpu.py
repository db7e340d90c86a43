"""`GpuAdam` from its arguments to the CUDA C++ kernels, on a CPU: the GPU engines' host side and g++'s kernels, in NumPy's memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given

import gpu_adam.state.placement
from gpu_adam import GpuAdam, LossScaler
from tests.optim.campaign import Campaign, campaigns, run
from tests.support.cuda_cpp import build
from tests.support.cuda_cpp.host_gpu import InHostMemory
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.strategies import FEW, tame, values

pytest_plugins = ("tests.support.cuda_cpp.fixtures",)

pytestmark = pytest.mark.skipif(build.missing is not None, reason=str(build.missing))


@pytest.fixture(scope="module")
def engine(library: build.Library) -> Iterator[InHostMemory]:
    made = InHostMemory(library)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_adam.state.placement, "engine_named", lambda name: made)
        yield made


def test_any_combination_gives_the_written_bits(engine: InHostMemory) -> None:
    @FEW
    @given(campaigns)
    def campaign(c: Campaign) -> None:
        run(c, engine.finish)

    campaign()
    assert engine.binding.launches


def test_a_graph_is_the_step_that_it_captured(engine: InHostMemory) -> None:
    p, q = (values(DTYPES["float32"], 3000, 1, 0.0) for _ in range(2))
    one = GpuAdam([p], lr=lambda t: 0.1 / t, max_grad_norm=1.0, skip_nonfinite=True, ema_decay=0.9, capturable=True)
    other = GpuAdam([q], lr=lambda t: 0.1 / t, max_grad_norm=1.0, skip_nonfinite=True, ema_decay=0.9)
    g = np.ones(3000, np.float32)
    one.grads = [g]
    graph = one.graph()
    for k in range(8):
        g[:] = tame(DTYPES["float32"], 3000, k, 3)
        if k == 3:
            g[5] = np.nan
        if k in (5, 7):
            for optimizer in (one, other):
                optimizer.param_groups[0]["lr"] = 0.5 if k == 5 else 0.0
        graph.replay()
        engine.finish()
        other.step([g])
        engine.finish()
        assert_same_bits(p, q, f"step {k}")
    assert one.steps_skipped == 1
    assert int(one.state_dict()["state"][0]["step"]) == 7
    one.load_state_dict(one.state_dict())
    with pytest.raises(RuntimeError, match=r"make another with graph\(\)"):
        graph.replay()


def test_rows_and_a_loss_scaler(engine: InHostMemory) -> None:
    table, twin = np.ones((40, 48), np.float16), np.ones((40, 48), np.float16)
    one, other = GpuAdam([table], lr=0.1), GpuAdam([twin], lr=0.1)
    scaler = LossScaler(one, init_scale=8.0, growth_interval=2)
    for k in range(6):
        rng = np.random.default_rng(k)
        rows = rng.integers(0, 40, 9)
        gradient = rng.standard_normal((9, 48)).astype(np.float32)
        scale = np.float32(scaler.get_scale())
        if k == 2:
            gradient[0, 0] = np.inf
        one.step([(rows, gradient * scale)], grad_scale=scaler)
        engine.finish()
        if k != 2:
            other.step([(rows, gradient * scale)], grad_scale=float(scale))
            engine.finish()
        assert_same_bits(table, twin, f"step {k}")
    assert one.steps_skipped == 1
