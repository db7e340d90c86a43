"""`GpuAdam` itself above GPUs made of host memory: the bits of the same program on NumPy arrays with the CPU engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from gpu_adam.engines.cuda.staging import RING
from tests.support import gpu_rigs, host_pairs
from tests.support.gpu_rigs import LIMIT, WIDTH, Host
from tests.support.host_pairs import HostArray, Pair

host, host_kernels, engines = gpu_rigs.host, gpu_rigs.host_kernels, host_pairs.engines

MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"max_grad_norm": 3.0},
    "skipping": {"skip_nonfinite": True},
    "capturable": {"capturable": True},
    "scheduled": {"max_grad_norm": 3.0, "skip_nonfinite": True, "lr": lambda t: 0.1 / t, "weight_decay": 0.1},
}


@pytest.mark.parametrize("devices", [(0, 0, 0), (0, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize("mode", MODES)
def test_many_steps_without_waiting(engines: Host, mode: str, devices: tuple[int, ...]) -> None:
    pair = Pair(engines, devices, **MODES[mode])
    kept = []
    for k in range(2 * RING):
        gradients = pair.gradients(infinite="skip_nonfinite" in MODES[mode] and k % 4 == 2)
        kept.append(pair.up(gradients))
        pair.on_gpu.step(kept[-1], grad_scale=2.0)
        pair.on_cpu.step(gradients, grad_scale=2.0)
    pair.check()
    assert pair.on_gpu.steps_skipped == pair.on_cpu.steps_skipped


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("devices", [(0, 1, 0), (1, 0, 2)])
def test_skipped_steps_are_counted_wherever_they_were_made(engines: Host, devices: tuple[int, ...], seed: int) -> None:
    pair = Pair(engines, devices, skip_nonfinite=True)
    random, kept = np.random.default_rng(seed), []
    for _ in range(30):
        gradients = pair.gradients(infinite=random.random() < 0.5)
        given = random.random(3) < 0.5
        given[random.integers(3)] = True
        kept.append(pair.up(gradients))
        pair.on_gpu.step([one if g else None for one, g in zip(kept[-1], given, strict=True)])
        pair.on_cpu.step([one if g else None for one, g in zip(gradients, given, strict=True)])
        if random.random() < 0.3:
            assert pair.on_gpu.steps_skipped == pair.on_cpu.steps_skipped
    pair.check()
    assert pair.on_gpu.steps_skipped == pair.on_cpu.steps_skipped > 0


def replayed(pair: Pair, replay: Callable[[], None], step: Callable[[], None], arrays: Sequence[HostArray]) -> None:
    """Run replays with new gradients in the same arrays, among steps with other arrays."""
    others = []
    for k in range(2 * RING):
        gradients = pair.gradients(infinite=k % 4 == 2)
        pair.host.engine.finish()
        if k % 5 == 3:
            others.append(pair.up(gradients))
            pair.on_gpu.step(others[-1])
        else:
            for array, gradient in zip(arrays, gradients, strict=True):
                array.memory[...] = gradient
            replay() if k % 5 else step()
        pair.on_cpu.step(gradients)
        if k == RING:
            for one in (pair.on_gpu, pair.on_cpu):
                one.param_groups[0]["weight_decay"] = 0.3
    pair.check()


GRAPHS = {name: {**MODES[name], "capturable": True} for name in ("clipped", "skipping", "scheduled", "capturable")}


@pytest.mark.parametrize("mode", GRAPHS)
def test_the_optimizers_graph(engines: Host, mode: str) -> None:
    pair = Pair(engines, **GRAPHS[mode])
    arrays = pair.up(pair.gradients())
    pair.on_gpu.grads = arrays
    graph = pair.on_gpu.graph()
    replayed(pair, graph.replay, pair.on_gpu.step, arrays)


@pytest.mark.parametrize("mode", GRAPHS)
def test_a_step_that_the_caller_captures(engines: Host, mode: str) -> None:
    pair = Pair(engines, **GRAPHS[mode])
    arrays = pair.up(pair.gradients())
    stream = engines.stream()
    gradients = pair.gradients()
    first = pair.up(gradients)
    pair.on_gpu.step(first, stream=stream)
    pair.on_cpu.step(gradients)
    with engines.captured(stream) as graph:
        pair.on_gpu.step(arrays, stream=stream)

    def replay() -> None:
        pair.on_gpu.prepare_replay(stream)
        graph.launch(stream)

    replayed(pair, replay, lambda: pair.on_gpu.step(arrays, stream=stream), arrays)


def test_a_step_that_is_not_capturable_is_refused(engines: Host) -> None:
    pair = Pair(engines)
    stream = engines.stream()
    arrays = pair.up(pair.gradients())
    with engines.captured(stream), pytest.raises(RuntimeError, match="capturable=True"):
        pair.on_gpu.step(arrays, stream=stream)


@pytest.mark.parametrize("mode", ["plain", "clipped", "scheduled"])
def test_gradients_of_rows(engines: Host, mode: str) -> None:
    random = np.random.default_rng(2)
    twin = random.normal(size=(LIMIT, WIDTH)).astype(np.float32)
    param = HostArray(twin, 0)
    on_gpu, on_cpu = GpuAdam([param], engine="cupy", **MODES[mode]), GpuAdam([twin], engine="cpu", **MODES[mode])
    kept = []
    for k in range(2 * RING):
        # Sparse in one dimension, and in both for a while.
        dims, count = 1 + (RING <= k < RING + 4), 1 + k % 7
        rows = random.integers(0, [[LIMIT], [WIDTH]][:dims], (dims, count))
        values = random.normal(size=(count, WIDTH)[: 3 - dims]).astype(np.float32)
        kept.append(HostArray(values, 0))
        # The engine sees a change of the current stream.
        engines.engine.binding.current = k % 3
        on_gpu.step([(rows, kept[-1])])
        on_cpu.step([(rows, values)])
    engines.engine.finish()
    np.testing.assert_array_equal(param.memory, twin)
