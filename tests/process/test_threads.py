"""Threads, forks and interrupts: any number of optimizers may step at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, GpuSgd
from gpu_adam.engines import cpu
from gpu_adam.engines.threads import ThreadPool, thread_count
from tests.process.alarms import Stopped, alarmed, timers
from tests.support.reference import assert_same_bits

SIZE = 100_000  # more than one thread's share


def run(seed: int, steps: int = 5, **options: Any) -> np.ndarray:
    rng = np.random.default_rng(seed)
    p, g = rng.standard_normal(SIZE).astype(np.float32), rng.standard_normal(SIZE).astype(np.float32)
    optimizer = GpuAdam([p], **options)
    for _ in range(steps):
        optimizer.step([g])
    return p


@pytest.fixture(autouse=True)
def several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads, whatever the machine has."""
    monkeypatch.setattr(cpu.engine(), "pool", ThreadPool(3))


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0, "ema_decay": 0.9}], ids=["plain", "clipped"])
def test_two_threads_step_two_optimizers_at_once(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "MEASURED_SERIAL", 1000)
    expected = [run(seed, **options) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            for seed, p in enumerate(threads.map(partial(run, **options), range(4))):
                assert_same_bits(p, expected[seed])


def test_a_forked_child_steps_with_threads_of_its_own() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    expected = run(0)  # starts the parent's threads
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=lambda: results.put(run(0).tobytes()), daemon=True)
    child.start()
    try:
        assert results.get(timeout=60) == expected.tobytes()
    finally:
        child.join(10)
        child.kill()
    assert_same_bits(run(0), expected)


def test_the_environment_says_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_ADAM_NUM_THREADS", "3")
    assert thread_count() == 3
    monkeypatch.delenv("GPU_ADAM_NUM_THREADS")
    assert 1 <= thread_count() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("value", ["0", "-1", "two", "", "1.5", " 2"])
def test_a_senseless_number_of_threads_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_ADAM_NUM_THREADS", value)
    with pytest.raises(ValueError, match=f"GPU_ADAM_NUM_THREADS='{value}': must be a positive whole number"):
        thread_count()


def test_a_process_told_to_use_one_thread_starts_no_other() -> None:
    code = (
        "import threading, numpy as np; from gpu_adam import GpuAdam; p = np.ones(1 << 20, np.float32);"
        "GpuAdam([p]).step([p.copy()]); print(threading.active_count())"
    )
    environment = {**os.environ, "GPU_ADAM_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "1", done.stderr


def test_every_share_is_run_once_and_all_are_done_on_return() -> None:
    pool = ThreadPool(4)
    done: list[int] = []

    def work(k: int) -> None:
        time.sleep(0.01 * (k % 3))
        done.append(k)

    for count in (1, 2, 4, 9):
        done.clear()
        pool.run(work, [(k,) for k in range(count)])
        assert sorted(done) == list(range(count))


def test_an_error_in_any_share_is_raised_after_all_are_done() -> None:
    pool = ThreadPool(3)
    done: list[int] = []

    def work(k: int) -> None:
        if k == bad:
            raise ValueError(f"share {k}")
        time.sleep(0.02)
        done.append(k)

    for bad in range(3):
        done.clear()
        with pytest.raises(ValueError, match=f"share {bad}"):
            pool.run(work, [(k,) for k in range(3)])
        assert sorted(done) == [k for k in range(3) if k != bad]


@timers
def test_whatever_a_signal_handler_raises_all_shares_are_done_or_none() -> None:
    pool = ThreadPool(3)
    counts = np.zeros(3, np.int64)

    def work(k: int) -> None:
        if k:
            time.sleep(0.0003)
            counts[k] += 1

    def stop(*_: object) -> None:
        raise Stopped

    pool.run(work, [(0,), (1,), (2,)])
    stopped = 0
    with alarmed(stop):
        for k in range(400):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (k % 50 + 1))
                pool.run(work, [(0,), (1,), (2,)])
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Stopped:
                stopped += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert counts[1] == counts[2]
    assert stopped
    done = counts[1]
    time.sleep(0.01)
    assert counts[1] == counts[2] == done


@timers
@pytest.mark.parametrize("options", [{}, {"pack": True}])
def test_whatever_a_signal_handler_raises_all_formats_are_updated_or_none(options: dict[str, Any]) -> None:
    def stop(*_: object) -> None:
        raise Stopped

    params = [np.zeros(20_000, np.float32), np.zeros(20_000), np.zeros((200, 100), np.float32)[:, ::2]]
    grads = [np.ones(p.shape, p.dtype) for p in params]
    opt = GpuSgd(params, lr=1.0, **options)
    opt.step(grads)
    stopped = 0
    with alarmed(stop):
        for k in range(600):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (k % 200 + 1))
                opt.step(grads)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Stopped:
                stopped += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert len({float(end) for p in opt.params for end in (p.flat[0], p.flat[-1])}) == 1
    assert stopped


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system sends no signals to threads")
def test_an_interrupt_waits_until_nobody_writes_any_more() -> None:
    pool = ThreadPool(2)
    finished = threading.Event()

    def work(k: int) -> None:
        if k:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.2)
            finished.set()

    # A process that was started in the background may ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.run(work, [(0,), (1,)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert finished.is_set()
    pool.run(lambda k: None, [(0,), (1,)])
