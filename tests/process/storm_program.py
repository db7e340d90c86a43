"""A storm of signals over one optimizer: run as a program, which ends with an error where an optimizer is torn or a signal is lost.

python storm_program.py WHAT SIGNALS SEED
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from gpu_adam import GpuAdam
from gpu_adam.engines import cpu
from gpu_adam.engines.threads import ThreadPool
from tests.process.alarms import Stopped


class Storm:
    """Signals that are raised from, one at a time, while `armed`.

    Attributes:
        armed: Whether the next one is raised from.
        raised: How many were.
    """

    def __init__(self) -> None:
        self.armed = False
        self.raised = 0
        signal.signal(signal.SIGALRM, lambda *_: self._raise(Stopped))
        signal.signal(signal.SIGINT, lambda *_: self._raise(KeyboardInterrupt))
        threading.Thread(target=self._interrupt, daemon=True).start()

    def _raise(self, kind: type[BaseException]) -> None:
        if self.armed:
            self.armed = False
            self.raised += 1
            raise kind

    def _interrupt(self) -> None:
        while True:
            time.sleep(random.expovariate(1 / 0.0005))
            os.kill(os.getpid(), signal.SIGINT)

    def over(self, act: Callable[[], None], seconds: float) -> None:
        """Act; a signal comes at some moment within about so many seconds, or none does."""
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, seconds))
        try:
            self.armed = True
            act()
            self.armed = False
        except (Stopped, KeyboardInterrupt):
            pass


@dataclass
class Case:
    """Two optimizers that do the same, one of them in the storm."""

    opt: Any
    twin: Any
    grads: list[np.ndarray]

    def steps(self, opt: Any) -> list[int]:
        return opt._dispatcher.read_steps().tolist()


def made(sizes: list[int], formats: list[Any], **options: Any) -> Case:
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(size).astype(name) for size in sizes for name in formats]
    grads = [rng.standard_normal(a.shape).astype(a.dtype) for a in arrays]
    opts = [GpuAdam([a.copy() for a in arrays], lr=0.01, **options) for _ in range(2)]
    for opt in opts:
        opt.step(grads)
    return Case(*opts, grads)


BF16 = ml_dtypes.bfloat16
STEPS: dict[str, Callable[[], Case]] = {
    "small": lambda: made([5], ["float32"]),
    "formats": lambda: made([300, 7], ["float32", "float64", BF16]),
    "threads": lambda: made([700_000], ["float32", BF16]),
    "clipped": lambda: made([900_000, 20], ["float32", "float64"], max_grad_norm=0.5),
    "packed": lambda: made([300_000, 3], ["float32", BF16], pack=True),
    "averaging": lambda: made([400_000], ["float32", "float16"], ema_decay=0.5),
}


def bits(opt: Any) -> list[bytes]:
    saved = opt.state_dict()["state"]
    arrays = [np.asarray(value) for entry in saved.values() for value in entry.values()]
    return [np.asarray(a).tobytes() for a in (*opt.params, *arrays)]


def step(name: str, signals: int) -> None:
    case, storm = STEPS[name](), Storm()
    seconds = timed(lambda: case.opt.step(case.grads), lambda: case.twin.step(case.grads))
    while storm.raised < signals:
        before = case.steps(case.twin)
        # New gradients each time, as loops have them.
        grads = [g.copy() for g in case.grads]
        storm.over(lambda grads=grads: case.opt.step(grads), 1.5 * seconds)
        del grads
        after = case.steps(case.opt)
        assert after in (before, [t + 1 for t in before]), (before, after)
        if after != before:
            case.twin.step(case.grads)
        check(case, storm, signals)


def check(case: Case, storm: Storm, signals: int) -> None:
    # Of large arrays not each time, which would take hours.
    if sum(g.size for g in case.grads) < 10_000 or storm.raised % 50 == 0 or storm.raised >= signals:
        assert bits(case.opt) == bits(case.twin)


def timed(*acts: Callable[[], None]) -> float:
    """Seconds that the first act takes; all are done."""
    for act in acts:
        act()
    begin = time.perf_counter()
    acts[0]()
    seconds = time.perf_counter() - begin
    acts[1]()
    return seconds


def load(signals: int) -> None:
    case, storm = made([300, 7], ["float32", BF16], ema_decay=0.5), Storm()
    one = case.twin.state_dict()
    case.twin.step(case.grads)
    two = case.twin.state_dict()
    case.opt.load_state_dict(one)
    known = [bits(case.opt)[len(case.grads) :]]
    case.opt.load_state_dict(two)
    known.append(bits(case.opt)[len(case.grads) :])
    outcomes = set()
    while storm.raised < signals:
        case.opt.load_state_dict(one)
        storm.over(lambda: case.opt.load_state_dict(two), 0.004)
        outcomes.add(known.index(bits(case.opt)[len(case.grads) :]))
    assert outcomes == {0, 1}


def average(signals: int) -> None:
    case, storm = made([300, 7], ["float32", BF16], ema_decay=0.5), Storm()
    case.opt.step(case.grads)
    case.twin.step(case.grads)
    before = bits(case.twin)

    def act() -> None:
        with case.opt.averaged():
            assert bits(case.opt)[0] != before[0]

    while storm.raised < signals:
        storm.over(act, 0.003)
        assert bits(case.opt) == before
    case.opt.step(case.grads)
    case.twin.step(case.grads)
    assert bits(case.opt) == bits(case.twin)


def add(signals: int) -> None:
    storm = Storm()
    while storm.raised < signals:
        case = made([5], ["float32"])
        fresh = [np.ones(3, np.float32), np.ones(4)]
        storm.over(lambda case=case, fresh=fresh: case.opt.add_param_group({"params": fresh}), 0.0005)
        grads: list[Any] = case.grads
        if len(case.opt.param_groups) == 2:
            case.twin.add_param_group({"params": [p.copy() for p in fresh]})
            grads = [case.grads, [np.ones(3, np.float32), np.ones(4)]]
        case.opt.step(grads)
        case.twin.step(grads)
        assert [bits_of(case.opt)] == [bits_of(case.twin)]


def bits_of(opt: Any) -> list[bytes]:
    return [np.asarray(p).tobytes() for group in opt.param_groups for p in group["params"]]


def first(signals: int) -> None:
    storm = Storm()
    while storm.raised < signals:
        params = [np.ones(9, np.float32), np.ones(4)]
        twins = [p.copy() for p in params]
        opt, twin = GpuAdam(params), GpuAdam(twins)
        storm.over(lambda opt=opt, params=params: opt.step(params), 0.003)
        twin.step(twins)
        if not opt._dispatcher.read_steps().any():
            opt.step(params)
        assert [p.tobytes() for p in params] == [p.tobytes() for p in twins]


OTHERS = {"load": load, "average": average, "add": add, "first": first}


def main(what: str, signals: str, seed: str) -> None:
    random.seed(int(seed))
    cpu.engine().pool = ThreadPool(3)
    if what in STEPS:
        step(what, int(signals))
    else:
        OTHERS[what](int(signals))
    # Where Python ends, its handlers are gone before the timer.
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGALRM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    print("whole", signals)


if __name__ == "__main__":
    main(*sys.argv[1:])
