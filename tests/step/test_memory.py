"""A step makes no temporaries of parameter size and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.reference import DTYPES

SMALL = 64 * 1024
"""Bytes that the bookkeeping of a step may take, whatever the size of the parameters."""


def traced(act: Any, times: int = 1) -> tuple[int, int]:
    """The peak of Python's and NumPy's memory above the start, and what is left at the end."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    for _ in range(times):
        act()
    gc.collect()
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - before, after - before


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("how", ["contiguous", "strided", "packed"])
def test_a_step_allocates_nothing_of_parameter_size(name: str, how: str) -> None:
    size = 1 << 20
    p = np.ones(2 * size, DTYPES[name])[::2] if how == "strided" else np.ones(size, DTYPES[name])
    gradients = [np.ones(size, DTYPES[name]) for _ in range(2)]
    optimizer = GpuAdam([p], pack=how == "packed", weight_decay=0.1)

    def same() -> None:
        optimizer.step(gradients[:1])

    def by_turns() -> None:
        optimizer.step(gradients[::-1][:1])
        optimizer.step(gradients[:1])

    def bound() -> None:
        optimizer.step()

    for act in (same, by_turns, *((bound,) if how == "packed" else ())):
        act()  # compiles what it needs
        traced(act, times=4)  # replaces what was allocated before anything was traced
        peak, left = traced(act, times=4)
        assert peak < SMALL
        assert left < SMALL // 8


def test_many_steps_leave_nothing_behind() -> None:
    params = [np.ones(k % 50, np.float32) for k in range(200)]
    optimizer = GpuAdam(params)

    def act() -> None:
        optimizer.step([np.ones(p.shape, np.float32) for p in params])

    act()
    # The first traced steps replace what untraced ones had allocated; after them nothing is added.
    _, few = traced(act, times=10)
    _, many = traced(act, times=60)
    assert many < few + 1024


def test_gradients_that_come_and_go_leave_nothing_behind() -> None:
    params = [np.ones(100, np.float32) for _ in range(20)]
    optimizer = GpuAdam(params)
    turn = 0

    def act() -> None:
        nonlocal turn
        turn += 1
        optimizer.step([None if (k + turn) % 3 == 0 else np.ones(100, np.float32) for k in range(20)])

    for _ in range(6):
        act()
    _, left = traced(act, times=30)
    assert left < SMALL


PEAK = """
import resource, sys
import numpy as np
from gpu_adam import GpuAdam
from gpu_adam.state.placement import place

size = 1 << 24
warm = GpuAdam([np.ones(8, np.float32)])
warm.step([np.ones(8, np.float32)])
p, g = np.ones(size, np.float32), np.ones(size, np.float32)
optimizer = GpuAdam([p])
names = ("exp_avg", "exp_avg_sq")
place(optimizer._params)
optimizer._params[0].state.ensure(names)
for name in names:
    optimizer._params[0].view(name)[...] = 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(3):
    optimizer.step([g])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kilobytes on Linux alone")
def test_the_process_does_not_grow_in_a_step() -> None:
    # Parameter, gradient and moments of 64 MiB each are all touched before; a temporary would be 64 MiB more.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 * 1024


def test_the_state_takes_the_bytes_that_it_must() -> None:
    size = 1 << 20
    for name, options, expected in (
        ("float32", {}, 8),
        ("float32", {"amsgrad": True}, 12),
        ("bfloat16", {}, 12),
        ("bfloat16", {"master_weights": False}, 8),
        ("float64", {}, 16),
    ):
        p, g = np.ones(size, DTYPES[name]), np.ones(size, DTYPES[name])
        kept: list[GpuAdam] = []

        def act(
            p: np.ndarray = p, g: np.ndarray = g, options: dict[str, Any] = options, kept: list[GpuAdam] = kept
        ) -> None:
            kept.append(GpuAdam([p], **options))
            kept[0].step([g])

        act()
        kept.clear()
        _, left = traced(act)
        assert expected * size <= left < expected * size + SMALL
