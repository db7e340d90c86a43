"""Storms of real signals: whatever their handlers raise and whenever, what was begun is whole or not done, and nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.alarms import timers

pytestmark = timers

PROGRAM = str(Path(__file__).with_name("storm_program.py"))
STEPS = ["small", "formats", "threads", "clipped", "packed", "averaging"]
OTHERS = ["load", "average", "add", "first"]


def ends(*arguments: str, seconds: int) -> str:
    """What a program says that must come to its end within some seconds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("what", ["formats", "threads", "average", "load"])
def test_what_is_begun_in_a_storm_is_whole_or_not_done(what: str) -> None:
    assert ends(PROGRAM, what, "60", "1", seconds=100).startswith("whole")


@pytest.mark.long
@pytest.mark.parametrize("what", [*STEPS, *OTHERS])
def test_two_thousand_signals(what: str) -> None:
    assert ends(PROGRAM, what, "2000", "2", seconds=600).startswith("whole")


FIRST = """
import signal, sys
import numpy as np
def stop(*_): raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
from gpu_adam import GpuAdam
params = [np.ones(40, np.float32), np.ones(3)]
opt = GpuAdam(params, max_grad_norm=1.0)
raised = 0
for _ in range(40):
    try:
        signal.setitimer(signal.ITIMER_REAL, {delay})
        opt.step([np.ones(40, np.float32), np.ones(3)])
        break
    except KeyboardInterrupt:
        raised += 1
signal.setitimer(signal.ITIMER_REAL, 0)
opt.step([np.ones(40, np.float32), np.ones(3)])
print(raised, opt.state_dict()["state"][1]["step"], 1.9 > 2 * params[0][0] > 0)
"""


@pytest.mark.parametrize(
    "delay",
    [0.3, *(pytest.param(0.02 * k, marks=pytest.mark.long) for k in range(1, 30))],
    ids=lambda delay: f"{delay:.2f}",
)
def test_an_interrupt_while_numba_is_imported_or_compiles_ends_nothing(delay: float, tmp_path: Path) -> None:
    environment = {**os.environ, "GPU_ADAM_CACHE_DIR": str(tmp_path / "kernels")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    program = FIRST.format(delay=delay)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    raised, steps, _ = done.stdout.split()
    # A signal that comes after the work is done interrupts what comes next.
    assert int(steps) >= 2
    assert int(raised) >= 1
