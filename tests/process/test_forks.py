"""Forks while other threads import, compile or step: a child never waits for a lock that nobody will release."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import gpu_adam
from gpu_adam import kernels
from gpu_adam.lazy import cached_property
from gpu_adam.process import forks
from gpu_adam.process.forks import unforked
from tests.process import fork_program

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    # Python 3.12 and newer warn of every fork beside other threads.
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

WORK = ("rules", "numba", "steps", "first_step", "import")


@pytest.mark.parametrize(
    ("work", "method", "count"),
    [
        *[("rules", "fork", 3), ("numba", "multiprocessing", 2), ("steps", "fork", 2), ("first_step", "fork", 2)],
        *[
            pytest.param(work, method, 20, marks=pytest.mark.long)
            for work in WORK
            for method in ("fork", "multiprocessing")
        ],
    ],
)
def test_every_child_steps_and_ends(work: str, method: str, count: int) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
        "GPU_ADAM_NUM_THREADS": "3",
    }
    done = subprocess.run(
        [sys.executable, fork_program.__file__, work, method, str(count)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0] * count, done.stderr


# The mechanism.


@contextmanager
def inside(enter: Callable[[], None] = lambda: None) -> Iterator[threading.Event]:
    """Another thread in a block, until the event is set."""
    leave, entered = threading.Event(), threading.Event()

    def run() -> None:
        with unforked():
            enter()
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=run)
    thread.start()
    assert entered.wait(60)
    try:
        yield leave
    finally:
        leave.set()
        thread.join()


def enter() -> None:
    with unforked():
        pass


def refused() -> None:
    with pytest.raises(RuntimeError, match="forked while another thread compiled or imported"):
        enter()


def test_a_fork_waits_until_the_others_have_left() -> None:
    with inside() as leave:
        timer = threading.Timer(0.2, leave.set)
        timer.start()
        assert fork_program.fork("fork", lambda: [enter() for _ in range(2)] and None) == 0
        assert leave.is_set()
        timer.join()
    enter()


def test_a_child_that_was_not_waited_for_says_so_and_so_does_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "PATIENCE", 0.1)

    def child() -> None:
        refused()
        assert fork_program.fork("fork", refused) == 0

    with inside():
        assert fork_program.fork("fork", child) == 0
        # Nobody is kept out meanwhile.
        enter()
    assert fork_program.fork("fork", enter) == 0


def test_a_block_lies_within_another_while_a_fork_waits() -> None:
    forked = threading.Event()

    def nest() -> None:
        thread = threading.Thread(target=lambda: (fork_program.fork("fork", enter), forked.set()))
        thread.start()
        time.sleep(0.1)
        assert not forked.is_set()
        enter()

    with inside(nest):
        pass
    assert forked.wait(60)


def test_who_is_in_a_block_may_fork() -> None:
    with unforked():
        assert fork_program.fork("fork", enter) == 0
        enter()
    assert fork_program.fork("fork", enter) == 0


def test_a_fork_comes_to_its_turn_however_busy_the_others_are() -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with unforked():
                time.sleep(0.003)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        start = time.monotonic()
        assert [fork_program.fork("fork", enter) for _ in range(5)] == [0] * 5
        assert time.monotonic() - start < forks.PATIENCE
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_many_threads_fork_at_once() -> None:
    ends: list[int] = []

    def work() -> None:
        for _ in range(3):
            enter()
            ends.append(fork_program.fork("fork", enter))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert ends == [0] * 12


def test_an_error_leaves_the_block() -> None:
    @unforked()
    def fail() -> None:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            fail()
    assert fork_program.fork("fork", enter) == 0


# Properties that are computed once.


def test_a_property_that_another_thread_computes_is_there_in_the_child() -> None:
    begun, finish = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, waits: bool) -> None:
            self.waits = waits

        @cached_property
        def value(self) -> object:
            if self.waits:
                begun.set()
                finish.wait(60)
            return object()

    thread = threading.Thread(target=lambda: Slow(True).value)
    thread.start()
    begun.wait(60)
    try:
        fast = Slow(False)
        assert fork_program.fork("fork", lambda: fast.value and None) == 0
        assert fast.value is fast.value
    finally:
        finish.set()
        thread.join()


def test_no_property_of_the_package_has_a_lock() -> None:
    package = Path(gpu_adam.__file__).parent
    files = {*package.rglob("*.py"), *Path(kernels.__file__).parent.rglob("*.py")} - {package / "lazy.py"}
    assert len(files) > 100
    assert [file for file in files if re.search("functools import .*cached_property", file.read_text("utf-8"))] == []
