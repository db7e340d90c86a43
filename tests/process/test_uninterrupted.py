"""Work that no handler interrupts."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from weakref import ref

import numpy as np
import pytest

from gpu_adam import GpuAdam
from gpu_adam.engines.threads import ThreadPool
from gpu_adam.process import uninterrupted
from gpu_adam.process.native import at_once
from gpu_adam.process.uninterrupted import prepared
from gpu_adam.process.uninterrupted import uninterrupted as call
from tests.process.alarms import Stopped, alarmed, timers

setting: ContextVar[int] = ContextVar("setting", default=0)


def test_it_returns_what_the_function_returns_and_raises_what_it_raises() -> None:
    assert call(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        call(divmod, 1, 0)
    with pytest.raises(SystemExit):
        call(sys.exit)


def test_the_function_sees_the_callers_context() -> None:
    token = setting.set(5)
    try:
        assert call(setting.get) == 5
        with np.errstate(divide="raise"):
            assert call(np.geterr)["divide"] == "raise"
    finally:
        setting.reset(token)


def test_only_the_main_thread_needs_another_one() -> None:
    def ident() -> tuple[int, int]:
        return threading.get_ident(), call(threading.get_ident)

    own, other = ident()
    assert own != other
    found: list[tuple[int, int]] = []
    thread = threading.Thread(target=lambda: found.append(ident()))
    thread.start()
    thread.join()
    assert found[0][0] == found[0][1]
    # Within such work too.
    assert call(ident) == (other, other)


@timers
def test_a_handler_waits_for_the_end() -> None:
    def stop(*_: object) -> None:
        order.append("handler")
        raise Stopped

    def work() -> None:
        for _ in range(20):
            time.sleep(0.002)
            sum(range(1000))
        order.append("work")

    order: list[str] = []
    with alarmed(stop):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(Stopped):
            call(work)
    assert order == ["work", "handler"]


def test_prepared_work_is_done_once_when_it_is_consumed() -> None:
    done: list[int] = []
    work = prepared(lambda: done.append(threading.get_ident()))
    assert not done
    at_once(work)
    at_once(work)
    assert len(done) == 1
    with pytest.raises(KeyError):
        at_once(prepared(lambda: {}[1]))


def stepped_twice() -> tuple[GpuAdam, np.ndarray]:
    """An optimizer that keeps an average, and its parameter, which is another one by now."""
    p = np.ones(4, np.float32)
    opt = GpuAdam([p], polyak_average=True)
    for _ in range(2):
        opt.step([p.copy()])
    return opt, p


def test_prepared_work_is_done_by_whoever_comes_to_it() -> None:
    found: list[int] = []

    def work() -> None:
        found.append(threading.get_ident())

    # By the helper itself, as where it collects garbage.
    call(at_once, prepared(work))
    assert found == [call(threading.get_ident)]
    thread = threading.Thread(target=at_once, args=(prepared(work),))
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert len(found) == 2


def test_a_block_that_nobody_ends_is_ended_when_it_is_dropped() -> None:
    opt, p = stepped_twice()
    before = p.copy()
    block = opt.averaged()
    block.__enter__()
    assert not np.array_equal(p, before)
    del block
    assert np.array_equal(p, before)
    with pytest.raises(KeyError), opt.averaged():
        raise KeyError
    assert np.array_equal(p, before)
    opt.step([p.copy()])


def test_nothing_is_held_once_it_is_done() -> None:
    """Neither what was worked on nor what came out, in whichever order the threads go on."""

    class Thing:
        pass

    for _ in range(300):
        thing = Thing()
        kept = ref(thing)
        found = call(lambda thing: (thing, Thing()), thing)
        made = ref(found[1])
        del thing, found
        assert kept() is None
        assert made() is None
    for _ in range(50):
        p = np.ones(4, np.float32)
        opt = GpuAdam([p])
        del opt
        p.resize(8)  # refused where anybody refers to the array


def test_no_garbage_is_collected_while_the_caller_waits() -> None:
    lock = threading.RLock()
    freed: list[int] = []

    class Locked:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            with lock:
                freed.append(threading.get_ident())

    def work() -> None:
        for _ in range(3000):
            Locked()

    with lock:
        call(work)
    gc.collect()
    assert set(freed) == {threading.get_ident()}
    assert gc.isenabled()


def test_a_block_is_entered_once() -> None:
    opt, p = stepped_twice()
    before = p.copy()
    block = opt.averaged()
    with block:
        with pytest.raises(RuntimeError, match="entered once"), block:
            pass
        with pytest.raises(RuntimeError, match="leave the block"), opt.averaged():
            pass
        assert not np.array_equal(p, before)
    assert np.array_equal(p, before)

    @opt.averaged()
    def look() -> np.ndarray:
        return p.copy()

    assert not np.array_equal(look(), before)
    assert not np.array_equal(look(), before)
    assert np.array_equal(p, before)


def test_a_block_that_another_thread_ends_keeps_nothing_alive() -> None:
    p = np.ones(4, np.float32)
    opt = GpuAdam([p], polyak_average=True)
    opt.step([p.copy()])
    block = opt.averaged()
    block.__enter__()
    thread = threading.Thread(target=block.close)
    thread.start()
    thread.join(20)
    kept = ref(opt)
    del block, opt, thread
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("pack", [False, True])
def test_averages_of_tensors_of_inference_mode(pack: bool) -> None:
    torch = pytest.importorskip("torch")
    with torch.inference_mode():
        p = torch.ones(4)
        opt = GpuAdam([p], polyak_average=True, pack=pack)
        for _ in range(2):
            opt.step([torch.ones(4)])
        before = p.clone()
        with opt.averaged():
            assert not torch.equal(p, before)
        assert torch.equal(p, before)
        opt.step([torch.ones(4)])


def test_where_no_thread_can_be_started_the_caller_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uninterrupted, "_helper", uninterrupted._Helper())
    monkeypatch.setattr(uninterrupted, "start_thread", lambda serve: False)
    assert call(threading.get_ident) == threading.get_ident()
    found: list[int] = []
    at_once(prepared(lambda: found.append(threading.get_ident())))
    assert found == [threading.get_ident()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_ends_a_block_that_its_parent_began() -> None:
    code = """
import os, sys
import numpy as np
from gpu_adam import GpuAdam
p = np.ones(4, np.float32)
opt = GpuAdam([p], polyak_average=True)
for _ in range(3):
    opt.step([p.copy()])
before = p.copy()
with opt.averaged():
    child = os.fork()
    assert not np.array_equal(p, before)
assert np.array_equal(p, before)
opt.step([p.copy()])
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, timeout=100, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_no_more_threads_are_started_than_there_are_shares() -> None:
    pool = ThreadPool(1000)
    begun = set()

    def work(_: int) -> None:
        begun.add(threading.get_ident())
        time.sleep(0.01)

    pool.run(work, [(k,) for k in range(5)])
    assert 1 < len(begun) <= 5
    assert pool._started == 4
    pool.run(work, [(0,)])
    assert pool._started == 4


@pytest.mark.parametrize("stage", range(3))
@pytest.mark.parametrize("share", range(4))
def test_after_an_error_no_further_stage_begins(stage: int, share: int) -> None:
    pool = ThreadPool(3)
    done: list[tuple[int, int]] = []

    def work(number: int, k: int) -> None:
        if (number, k) == (stage, share):
            raise ValueError(f"{number}, {k}")
        time.sleep(0.005)
        done.append((number, k))

    for _ in range(3):
        done.clear()
        with pytest.raises(ValueError, match=f"{stage}, {share}"):
            pool.run_all(*([(work, [(number, k) for k in range(4)])] for number in range(3)))
        assert {number for number, _ in done} == set(range(stage + 1))
        assert len([k for number, k in done if number == stage]) == 3
        time.sleep(0.01)
        assert len(done) == 4 * stage + 3
