"""One thread at a time is in an optimizer; a handler or a schedule in the middle of a step may read and not change."""

from __future__ import annotations

import gc
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from gpu_adam.engines import cpu
from gpu_adam.engines.threads import ThreadPool
from tests.process.alarms import Stopped, alarmed, timers


class Late(ValueError):
    """What a time limit raises that is taken for an error of an argument."""


def slow(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Have every step of the CPU engine wait: it tells when it has begun, and is told when to go on."""
    begun, go = threading.Event(), threading.Event()
    run = ThreadPool.run_all

    def waiting(self: ThreadPool, *stages: Any) -> None:
        begun.set()
        assert go.wait(20)
        run(self, *stages)

    monkeypatch.setattr(ThreadPool, "run_all", waiting)
    return begun, go


USES = {
    "step": lambda opt: opt.step([np.ones(3, np.float32)]),
    "state_dict": lambda opt: opt.state_dict(),
    "load_state_dict": lambda opt: opt.load_state_dict({}),
    "add_param_group": lambda opt: opt.add_param_group({"params": [np.ones(2)]}),
    "averaged": lambda opt: opt.averaged().__enter__(),
    "averaged_params": lambda opt: opt.averaged_params,
    "grad_norm": lambda opt: opt.grad_norm,
    "steps_skipped": lambda opt: opt.steps_skipped,
    "grads": lambda opt: setattr(opt, "grads", [np.ones(3, np.float32)]),
    "zero_grad": lambda opt: opt.zero_grad(),
    "plan": lambda opt: opt.plan,
}


@pytest.mark.parametrize("use", USES)
def test_an_optimizer_that_another_thread_is_in_says_so(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = np.zeros(3, np.float32)
    opt = GpuAdam([p], polyak_average=True)
    begun, go = slow(monkeypatch)
    thread = threading.Thread(target=lambda: opt.step([np.ones(3, np.float32)]))
    thread.start()
    assert begun.wait(20)
    try:
        with pytest.raises(RuntimeError, match=r"another thread is using this GpuAdam: .* one thread at a time"):
            USES[use](opt)
        assert len(repr(opt)) > 20
        assert opt.params[0] is p
    finally:
        go.set()
        thread.join()
    assert opt.state_dict()["state"][0]["step"] == 1


def test_threads_that_storm_one_optimizer_step_it_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu.engine(), "pool", ThreadPool(2))
    p, twin = np.ones(40_000, np.float32), np.ones(40_000, np.float32)
    grad = np.full(40_000, 0.5, np.float32)
    opt, other = GpuAdam([p], max_grad_norm=1.0), GpuAdam([twin], max_grad_norm=1.0)
    done = [0] * 4
    refused = [0] * 4

    def storm(k: int) -> None:
        for _ in range(50):
            try:
                opt.step([grad])
                done[k] += 1
            except RuntimeError:
                refused[k] += 1

    threads = [threading.Thread(target=storm, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(sum(done)):
        other.step([grad])
    assert p.tobytes() == twin.tobytes()
    assert opt.state_dict()["state"][0]["step"] == sum(done)


@timers
def test_the_handler_of_a_signal_may_save_in_the_middle_of_a_step() -> None:
    p = np.ones(20_000, np.float32)
    opt = GpuAdam([p], ema_decay=0.9)
    saved: list[Any] = []
    begin = time.perf_counter()
    opt.step([np.full(20_000, 0.5, np.float32)])
    seconds = time.perf_counter() - begin
    opt = GpuAdam([p], ema_decay=0.9)
    p[:] = 1
    with alarmed(lambda *_: saved.append((opt.state_dict(), p.copy()))):
        for k in range(200):
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, seconds * (k % 100 + 1) / 100))
            opt.step([np.full(20_000, 0.5, np.float32)])
    twin = np.ones(20_000, np.float32)
    other = GpuAdam([twin], ema_decay=0.9)
    states = [b""]
    params = [twin.tobytes()]
    for _ in range(200):
        other.step([np.full(20_000, 0.5, np.float32)])
        states.append(other.state_dict()["state"][0]["exp_avg_sq"].tobytes())
        params.append(twin.tobytes())
    assert p.tobytes() == twin.tobytes()
    assert saved
    for state, param in saved:
        if state["state"]:
            t = state["state"][0]["step"]
            assert state["state"][0]["exp_avg_sq"].tobytes() == states[t]
            assert param.tobytes() == params[t]


@timers
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("kind", [RuntimeError, Late, TimeoutError, Stopped])
def test_no_exception_of_a_handler_is_taken_for_one_of_the_arrays(kind: type[Exception], library: str) -> None:
    raised = 0

    def stop(*_: object) -> None:
        nonlocal raised
        raised += 1
        raise kind("time is up")

    params: list[Any] = [np.ones(3, np.float32) for _ in range(200)]
    if library == "torch":
        torch = pytest.importorskip("torch")
        params = [torch.from_numpy(p) for p in params]
    opt = GpuAdam(params)
    opt.step(params)
    seen = 0
    # A collection calls back what others have registered, where Python loses exceptions.
    gc.disable()
    try:
        with alarmed(stop):
            for k in range(300):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 3e-6 * (k + 1))
                    opt.step(params)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except kind as error:
                    seen += str(error) == "time is up"
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        gc.enable()
    assert raised > 20
    assert seen == raised


CHANGES = {"step", "load_state_dict", "add_param_group", "averaged", "grads", "zero_grad"}


@pytest.mark.parametrize("use", USES)
def test_in_the_middle_of_a_step_its_own_thread_may_read_and_not_change(use: str) -> None:
    errors: list[Exception] = []

    def rate(t: int) -> float:
        try:
            USES[use](opt)
        except Exception as error:
            errors.append(error)
        return 0.1

    p = np.zeros(3, np.float32)
    opt = GpuAdam([p], lr=rate, polyak_average=True, max_grad_norm=1.0)
    opt.step([np.ones(3, np.float32)])
    opt.step([np.ones(3, np.float32)])
    refused = [error for error in errors if "in the middle of a call" in str(error)]
    assert bool(refused) == (use in CHANGES)
    assert opt.state_dict()["state"][0]["step"] == 2
    twin = np.zeros(3, np.float32)
    other = GpuAdam([twin], lr=0.1, max_grad_norm=1.0)
    for _ in range(2):
        other.step([np.ones(3, np.float32)])
    assert p.tobytes() == twin.tobytes()


def test_a_thread_that_could_not_say_that_it_has_left_is_not_waited_for() -> None:
    p = np.ones(3, np.float32)
    opt = GpuAdam([p])
    opt.step([p.copy()])
    # An exception came right before.
    opt._users[None] = (threading.get_ident(), object())
    errors: list[BaseException] = []

    def step() -> None:
        try:
            opt.step([p.copy()])
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    assert not errors
    assert not opt._users
