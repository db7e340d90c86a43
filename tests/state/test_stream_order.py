"""Reading and writing an optimizer's state right after a step on another stream, on GPUs made of host memory.

A stream's work is done as late as it can be, so that what is not made to wait for it reads what was there before.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, LossScaler
from gpu_adam.device import Device
from gpu_adam.dtypes import FLOAT32
from gpu_adam.engines.cuda.staging import RING
from tests.state import streamed
from tests.state.streamed import OTHER, SIDE, Streamed
from tests.support import host_library
from tests.support.cuda_cpp import build
from tests.support.cuda_cpp.host_gpu import GLOBAL
from tests.support.host_pairs import HostArray

pytest_plugins = ("tests.support.cuda_cpp.fixtures",)
pytestmark = pytest.mark.skipif(build.missing is not None, reason=str(build.missing))

host = streamed.host


def numbers(value: Any) -> Any:
    """What an array of either library holds, read in the order of the library's stream."""
    return value.get() if hasattr(value, "get") else np.asarray(value)


def states(optimizer: GpuAdam) -> list[Any]:
    return [value for entry in optimizer.state_dict()["state"].values() for value in entry.values()]


def averages(optimizer: GpuAdam) -> list[Any]:
    return list(optimizer.averaged_params)


def in_the_block(optimizer: GpuAdam) -> list[Any]:
    with optimizer.averaged():
        return [numbers(one).copy() for one in views_of(optimizer)]


def views_of(optimizer: GpuAdam) -> list[Any]:
    refs = [placed.ref for placed in optimizer._params]
    return [ref.library.view_of(ref) for ref in refs]


READERS: dict[str, Callable[[GpuAdam], list[Any]]] = {
    "grad_norm": lambda one: [one.grad_norm],
    "group_grad_norms": lambda one: [one.group_grad_norms],
    "steps_skipped": lambda one: [one.steps_skipped],
    "state_dict": states,
    "averaged_params": averages,
    "averaged": in_the_block,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"ema_decay": 0.9},
    "measured": {"max_grad_norm": 3.0, "group_norms": True, "ema_decay": 0.9},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_read_is_that_of_the_last_step(host: Any, reader: str, options: str) -> None:
    if options == "plain" and "norm" in reader:
        pytest.skip("nothing is measured")
    read = READERS[reader]
    pair = Streamed(host, **OPTIONS[options])
    for k in range(3):
        host.binding.current = [0, OTHER, 0][k]
        pair.step([SIDE, None, OTHER][k])
        for one, other in zip(read(pair.on_gpu), read(pair.on_cpu), strict=True):
            np.testing.assert_array_equal(numbers(one), numbers(other))
    pair.check()


@pytest.mark.parametrize(("reader", "options"), [("grad_norm", "measured"), ("state_dict", "plain")])
def test_what_was_read_stays_whatever_is_stepped_next(host: Any, reader: str, options: str) -> None:
    pair = Streamed(host, **OPTIONS[options])
    pair.step()
    found, wanted = READERS[reader](pair.on_gpu), READERS[reader](pair.on_cpu)
    for _ in range(3):
        pair.step()
    host.binding.streams.finish(SIDE)  # before anything else
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(numbers(one), numbers(other))
    pair.check()


@pytest.mark.parametrize("side", [0, SIDE])
@pytest.mark.parametrize("reader", ["grad_norm", "state_dict"])
def test_what_was_read_twice_stays_too(host: Any, reader: str, side: int) -> None:
    pair = Streamed(host, **OPTIONS["measured"])
    pair.step(side)
    READERS[reader](pair.on_gpu)
    found, wanted = READERS[reader](pair.on_gpu), READERS[reader](pair.on_cpu)
    for _ in range(3):
        pair.step(OTHER)
    host.binding.streams.finish(OTHER)  # before anything else
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(numbers(one), numbers(other))
    pair.check()


def test_the_norm_is_had_without_waiting(host: Any) -> None:
    pair = Streamed(host, max_grad_norm=3.0)
    pair.step()
    host.engine.finish()
    pair.step()
    before = host.binding.waits
    norm = pair.on_gpu.grad_norm
    assert host.binding.waits == before
    assert host.binding.streams.queues[SIDE]
    assert float(norm) == float(pair.on_cpu.grad_norm)


def test_reading_often_does_not_disturb_the_counts(host: Any) -> None:
    pair = Streamed(host, lr=lambda t: 0.1 / t, max_grad_norm=3.0)
    for k in range(3 * RING):
        pair.step([SIDE, None][k % 2])
        for _ in range(k % 4):
            norm = pair.on_gpu.grad_norm
    assert float(norm) == float(pair.on_cpu.grad_norm)
    pair.check()


@pytest.mark.parametrize("devices", [(0, 1, 0), (1, 1, 1)])
def test_parameters_on_several_devices(host: Any, devices: tuple[int, ...]) -> None:
    pair = Streamed(host, devices, max_grad_norm=3.0)
    for k in range(4):
        host.binding.current = 0
        pair.step(None)
        found = states(pair.on_gpu)
        pair.step(None)
        for key in list(host.binding.streams.queues)[:: -1 if k % 2 else 1]:
            host.binding.streams.finish(key)
        pair.on_cpu, on_cpu = pair.on_cpu, states(pair.on_cpu)
        assert len(found) == len(on_cpu)
    pair.check()
    made = set(host.binding.host.made)
    assert made == set(devices)  # and no context anywhere else


def test_the_block_of_averages_is_over_before_the_next_step(host: Any) -> None:
    pair = Streamed(host, ema_decay=0.9)
    for _ in range(4):
        pair.step()
        with pair.on_gpu.averaged():
            pass
    host.binding.streams.finish(SIDE)
    pair.check()


def test_clearing_the_gradients_comes_after_the_step_that_reads_them(host: Any) -> None:
    pair = Streamed(host)
    gradients = pair.gradients()
    views = [host_library.HostView(host.binding, array.copy(), 0) for array in gradients]
    pair.on_gpu.grads = views
    pair.on_cpu.grads = [array.copy() for array in gradients]
    for k in range(3):
        pair.on_gpu.step(stream=SIDE)
        pair.on_cpu.step()
        pair.on_gpu.zero_grad()
        host.binding.streams.finish(0)
        pair.on_cpu.zero_grad()
        for view, array, given in zip(views, pair.on_cpu.grads, gradients, strict=True):
            assert not view.memory.any()
            view.memory[...] = array[...] = given * (k + 2)
    pair.check()


def test_a_loss_is_scaled_by_the_scale_of_the_last_step(host: Any) -> None:
    pair = Streamed(host)
    scaler = LossScaler(pair.on_gpu, init_scale=64.0)

    class Loss:
        def __mul__(self, scale: Any) -> float:
            return float(numbers(scale))

    assert scaler.scale(Loss()) == 64.0
    gradients = pair.up(pair.gradients(infinite=True))
    pair.on_gpu.step(gradients, grad_scale=scaler, stream=SIDE)
    assert scaler.scale(Loss()) == 32.0


def test_a_state_is_loaded_after_the_last_step_and_before_the_next(host: Any) -> None:
    pair = Streamed(host, max_grad_norm=3.0)
    pair.step()
    saved = pair.on_gpu.state_dict(), pair.on_cpu.state_dict()
    pair.step()
    for one, state in zip((pair.on_gpu, pair.on_cpu), saved, strict=True):
        one.load_state_dict(state)
    pair.step(OTHER)
    host.binding.streams.finish(OTHER)
    pair.check()


@pytest.mark.parametrize("mine", [0, 5000, 1000, 1002])
@pytest.mark.parametrize("device", [0, 1])
def test_everything_leaves_the_callers_context_and_makes_no_other(host: Any, device: int, mine: int) -> None:
    driver = host.binding.host
    driver.set_context(mine)
    pair = Streamed(host, (device,) * 3, max_grad_norm=3.0, capturable=True, ema_decay=0.9)
    pair.step(None)
    pair.on_gpu.grads = [host_library.HostView(host.binding, one, device) for one in pair.gradients()]
    graph = pair.on_gpu.graph()
    graph.replay()
    with pair.on_gpu.averaged():
        pass
    _ = float(pair.on_gpu.grad_norm), pair.on_gpu.steps_skipped
    pair.on_gpu.load_state_dict(pair.on_gpu.state_dict())
    pair.on_gpu.zero_grad()
    scaler = LossScaler(pair.on_gpu)
    pair.on_gpu.step(pair.up(pair.gradients()), grad_scale=scaler)
    host.engine.finish()
    assert driver.current_context() == mine
    assert driver.made == [device]
    del pair, graph, scaler
    gc.collect()
    assert driver.current_context() == mine
    assert not driver.known


@pytest.mark.parametrize("capturable", [False, True])
def test_an_optimizer_that_goes_away_spoils_nobodys_capture(host: Any, capturable: bool) -> None:
    made = [Streamed(host, capturable=capturable, max_grad_norm=3.0)]
    made[0].step()
    host.engine.finish()
    with host.binding.captured(77, GLOBAL):
        made.clear()
        gc.collect()
    assert not host.binding.host.known


def test_memory_that_is_taken_and_given_back_spoils_nobodys_capture(host: Any) -> None:
    memory = [host.engine.allocate(Device("cuda"), 100)]
    with host.binding.captured(77, GLOBAL):
        memory.append(host.engine.allocate(Device("cuda"), 100))
        memory.clear()


def test_the_stand_in_sees_a_capture_that_is_spoilt(host: Any) -> None:
    driver = host.binding.driver
    with pytest.raises(AssertionError, match="the capture is spoilt"):  # noqa: PT012, SIM117
        with host.binding.on(0), host.binding.captured(77, GLOBAL):
            with pytest.raises(RuntimeError, match="CAPTURE"):
                driver.allocate(5)


@pytest.mark.parametrize("shapes", [[(0,)], [(3,), (0, 4)], [(0,), (5,), (2, 0)], [(0,), (0,)], [(64,), (0,)]], ids=str)
def test_an_empty_view_has_an_address_that_is_known(host: Any, shapes: list[tuple[int, ...]]) -> None:
    arrays = [HostArray(np.ones(shape, np.float32), 0) for shape in shapes]
    optimizer = GpuAdam(arrays, engine="cupy", ema_decay=0.9)
    optimizer.step([HostArray(np.ones(shape, np.float32), 0) for shape in shapes])
    for placed in optimizer._params:
        for name in ("exp_avg", "exp_avg_sq", "average"):
            address = placed.view(name).__cuda_array_interface__["data"][0]
            memory = placed.state.address(name, 0)
            assert host.binding.host.is_known(memory, 1)
            inside = memory <= address < memory + max(placed.state.bucket.size * FLOAT32.itemsize, 1)
            assert inside, "one past the end"
    with optimizer.averaged():
        pass
    optimizer.load_state_dict(optimizer.state_dict())
