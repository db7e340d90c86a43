"""What a step does in a training run, on arrays of every library and on every engine: the bits of the same program on NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, LossScaler
from tests.support.libraries import dense, host, transposed, write
from tests.support.library_cases import HOST, Case
from tests.support.library_programs import Tensor, Training, agree, compare, of_every_format
from tests.support.library_streams import capturing, settle
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.strategies import tame

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

OPTIONS: dict[str, dict[str, Any]] = {
    "measured, averaged": {"max_grad_norm": math.inf, "group_norms": True, "ema_decay": 0.9},
    "clipped": {"max_grad_norm": 1.0},
    "skipping": {"skip_nonfinite": True, "polyak_average": True},
    "capturable": {"capturable": True, "amsgrad": True},
    "capturable, averaged, without masters": {"capturable": True, "ema_decay": 0.5, "master_weights": False},
}


def numbers(case: Case, name: str, size: int, seed: int) -> Any:
    return case.array(tame(DTYPES[name], dense(size).extent, seed, 2), dense(size))


@pytest.mark.parametrize("name", OPTIONS)
def test_any_option_on_any_library(case: Case, name: str) -> None:
    tensors = of_every_format(case, dense(3000), transposed(20, 30), dense(37, offset=1), dense(0))
    compare(case, tensors, steps=6, **OPTIONS[name])


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.5}, {"skip_nonfinite": True, "ema_decay": 0.9}], ids=str)
@pytest.mark.parametrize("pack", [False, True])
def test_a_loss_scaler_clips_skips_and_is_followed(case: Case, pack: bool, options: dict[str, Any]) -> None:
    if not case.library.packs:
        pytest.skip("these arrays cannot be read again")
    names = case.library.formats
    left = []
    for one in (case, HOST):
        params = [numbers(one, name, 1500, k) for k, name in enumerate(names)]
        optimizer = GpuAdam(params, engine=one.engine, lr=lambda t: 0.1 / t, pack=pack, **options)
        scaler = LossScaler(optimizer, init_scale=8.0, growth_interval=2)
        kept = []
        for step in range(7):
            grads = [numbers(one, name, 1500, 10 * step + k) for k, name in enumerate(names)]
            if step == 3:
                write(grads[0], one.array(np.full(dense(1500).extent, np.inf, DTYPES[names[0]]), dense(1500)))
            kept.append(grads)
            optimizer.step(grads, grad_scale=scaler)
        found = {f"parameter {k}": host(p) for k, p in enumerate(optimizer.params)}
        found["norm"] = host(optimizer.grad_norm)
        left.append((found, scaler.state_dict(), optimizer.steps_skipped))
    agree(left[0][0], left[1][0])
    assert left[0][1:] == left[1][1:]
    assert left[0][2] == 1


def test_averages_are_swapped_in_and_out(case: Case) -> None:
    if not case.library.packs:
        pytest.skip("views of the averages are for libraries whose arrays can be made")
    params = [numbers(case, name, 300, k) for k, name in enumerate(case.library.formats)]
    optimizer = GpuAdam(params, engine=case.engine, lr=0.1, ema_decay=0.9)
    for step in range(3):
        optimizer.step([numbers(case, name, 300, 10 * step + k) for k, name in enumerate(case.library.formats)])
    before = [host(p).copy() for p in params]
    with optimizer.averaged():
        for p, average in zip(params, optimizer.averaged_params, strict=True):
            assert_same_bits(host(p), host(average).astype(host(p).dtype))
    for p, kept in zip(params, before, strict=True):
        assert_same_bits(host(p), kept)


@pytest.mark.parametrize(("shape", "dims"), [((50, 24), 1), ((50, 24), 2), ((50,), 1)])
def test_gradients_of_rows(case: Case, shape: tuple[int, ...], dims: int) -> None:
    if not case.library.packs:
        pytest.skip("these arrays cannot be read again")
    left = []
    for one in (case, HOST):
        table = one.array(tame(DTYPES["float32"], dense(*shape).extent, 1, 2), dense(*shape))
        layout = dense(9, *shape[dims:])
        optimizer = GpuAdam([table], engine=one.engine, max_grad_norm=1.0)
        kept = []
        for step in range(4):
            rows = np.random.default_rng(step).integers(0, np.array(shape[:dims])[:, None], (dims, 9))
            gradient = one.array(tame(DTYPES["float32"], layout.extent, step, 2), layout)
            kept.append(gradient)
            optimizer.step([(rows, gradient)])
        left.append({"table": host(table), "norm": host(optimizer.grad_norm)})
    agree(*left)


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0, "skip_nonfinite": True, "ema_decay": 0.9}], ids=str)
def test_a_graph_is_the_step(streamed_case: Case, options: dict[str, Any]) -> None:
    twins = [np.asarray(host(numbers(HOST, name, 3000, k))) for k, name in enumerate(DTYPES)]
    params = [numbers(streamed_case, name, 3000, k) for k, name in enumerate(DTYPES)]
    bound = [numbers(streamed_case, name, 3000, 7 + k) for k, name in enumerate(DTYPES)]
    one = GpuAdam(params, engine=streamed_case.engine, lr=lambda t: 0.1 / t, capturable=True, **options)
    other = GpuAdam(twins, lr=lambda t: 0.1 / t, **options)
    if streamed_case.library.name == "cupy":
        one.grads = bound
    else:
        for p, g in zip(params, bound, strict=True):
            p.grad = g
    graph = one.graph()
    for step in range(6):
        fresh = [numbers(streamed_case, name, 3000, 50 * step + k) for k, name in enumerate(DTYPES)]
        for to, numbers in zip(bound, fresh, strict=True):
            write(to, numbers)
        if step == 4:
            for optimizer in (one, other):
                optimizer.param_groups[0]["lr"] = 0.5
        graph.replay()
        other.step([host(g) for g in fresh])
    settle(streamed_case)
    for p, q in zip(params, twins, strict=True):
        assert_same_bits(host(p), q)


def test_a_step_is_captured_with_other_work(streamed_case: Case) -> None:
    tensors = [Tensor(name, dense(300)) for name in DTYPES]
    training = Training(streamed_case, tensors, capturable=True).step(0)
    gradients = training.gradients(1)
    settle(streamed_case)
    with capturing(streamed_case):
        training.optimizer.step(gradients)
    # Captured and not run.
    settle(streamed_case)
    agree(training.left(), Training(HOST, tensors, capturable=True).step(0).left())
