"""A program that forks again and again while another thread is at work: ``python fork_program.py WORK METHOD FORKS``.

Each child does what a step may need, and compares the bits. The program prints how each child ended, as JSON: 0 is well, -14 a child that
hung until its alarm.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

PATIENCE = float(os.environ.get("PATIENCE", "40"))
"""Seconds after which a child hangs."""

N = 300_000
"""Elements: more than one thread's share."""


def fresh_rule() -> Any:
    """An optimizer's class whose rule nobody has compiled yet."""
    from gpu_adam import Algorithm, GpuOptimizer, Rule
    from gpu_adam.kernels.abi import LR, own

    (a,) = own(1)

    def make_update(fma: Any, sqrt: Any) -> Any:
        def update(p, g, s0, s1, s2, c):  # type: ignore[no-untyped-def]
            return fma(c[a], g, p), s0, s1, s2

        return update

    def make_coefficients(mul: Any, sqrt: Any, narrow: Any, power: Any) -> Any:
        def coefficients(h, t, wide, row):  # type: ignore[no-untyped-def]
            row[a] = -h[LR]

        return coefficients

    class Plain(GpuOptimizer):
        algorithm = Algorithm([Rule("plain", (), make_update, make_coefficients)])

        def __init__(self, params: Any, lr: float) -> None:
            super().__init__(params, {"lr": lr, "weight_decay": 0.0})

    return Plain


def step_of_a_fresh_rule() -> None:
    import numpy as np

    p = np.full(5, 2.0, np.float32)
    fresh_rule()([p], 0.5).step([np.ones(5, np.float32)])
    assert p.tolist() == [1.5] * 5, p


def adam() -> tuple[Any, Any]:
    import numpy as np

    from gpu_adam import GpuAdam

    p = np.linspace(-1, 1, N, dtype=np.float32)
    return GpuAdam([p], max_grad_norm=1.0), p


def expected_of(steps: int) -> bytes:
    optimizer, p = adam()
    for _ in range(steps):
        optimizer.step([p * 0.5 + 1])
    return bytes(p.tobytes())


def work(name: str, stop: threading.Event) -> Iterator[None]:
    """What the other thread does, over and over."""
    if name == "rules":
        while not stop.is_set():
            step_of_a_fresh_rule()
            yield
    elif name == "numba":
        import numba

        while not stop.is_set():
            numba.njit("f8(f8)")(lambda x: x * 2.0 + 1.0)
            yield
    elif name == "steps":
        optimizer, p = adam()
        while not stop.is_set():
            optimizer.step([p])
            yield
    elif name == "first_step":
        step_of_a_fresh_rule()
        yield
        stop.wait()
    elif name == "import":
        import numba.core.caching

        yield
        stop.wait()


def busy(name: str) -> Callable[[], None]:
    """Start the other thread; what stops it."""
    stop, begun, error = threading.Event(), threading.Event(), []

    def run() -> None:
        try:
            for _ in work(name, stop):
                begun.set()
        except BaseException:
            error.append(traceback.format_exc())
            begun.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    if name in ("rules", "numba", "steps"):
        begun.wait(PATIENCE)

    def end() -> None:
        stop.set()
        thread.join(PATIENCE)
        if error or thread.is_alive():
            raise SystemExit("".join(error) or "the other thread hangs")

    return end


def fork(method: str, function: Callable[[], None]) -> int:
    """Have a child call the function; how it ended."""

    def call() -> None:
        # Its end where it hangs, which takes no Python: nobody is left behind whatever becomes of the parent.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        function()

    if method == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=call)
        process.start()
        process.join()
        return process.exitcode or 0
    child = os.fork()
    if child == 0:
        status = 1
        try:
            call()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def many_forks(name: str, method: str, count: int) -> list[int]:
    """Children of one process, in which the other thread never rests."""
    inherited, p = adam()
    inherited.step([p * 0.5 + 1])
    once, twice = p.tobytes(), expected_of(2)

    def child() -> None:
        inherited.step([p * 0.5 + 1])
        assert p.tobytes() == twice
        assert expected_of(1) == once
        step_of_a_fresh_rule()

    end = busy(name)
    ends = [fork(method, child) for _ in range(count)]
    end()
    # The parent is as it was.
    inherited.step([p * 0.5 + 1])
    assert p.tobytes() == twice
    return ends


def first_forks(name: str, method: str, count: int) -> list[int]:
    """Each time a process of its own, in which Numba has not been imported yet, and which forks at another moment of that."""
    # Forks know nothing of a package that is not there yet.
    import gpu_adam.optim  # noqa: F401

    ends = []
    for k in range(count):

        def process(moment: float = k * 0.7 / count) -> None:
            end = busy(name)
            time.sleep(moment)
            status = fork(method, step_of_a_fresh_rule)
            end()
            assert status == 0, status

        ends.append(fork("fork", process))
    return ends


if __name__ == "__main__":
    signal.alarm(int(8 * PATIENCE))
    name, method, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    forks = first_forks if name in ("first_step", "import") else many_forks
    print(json.dumps(forks(name, method, count)))
