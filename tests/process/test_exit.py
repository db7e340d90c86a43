"""Steps at the end of a process: in `__del__` at shutdown, in `atexit` handlers, in daemon threads. It ends by itself, and well."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, os, sys, threading, time
import numpy as np
from gpu_adam import GpuAdam

size, begun = int(sys.argv[1]), sys.argv[2] == "begun"
optimizer = GpuAdam([np.zeros(size, np.float32)], lr=0.5)
grads = [np.ones(size, np.float32)]
if begun:
    optimizer.step(grads)


def step():
    # Whole, or an error that says what cannot be done any more.
    before = float(optimizer.params[0][0])
    try:
        optimizer.step(grads)
        done = True
    except RuntimeError as error:
        assert str(error)
        done = False
    except ImportError as error:
        # Python's own word for what needs a module that has not been imported.
        assert "shutting down" in str(error)
        done = False
    # Nothing that NumPy itself would import now.
    (found,) = set(optimizer.params[0].tolist())
    assert (found != before) == done
    os.write(1, b"stepped " if done else b"refused ")


class Holder:
    def __init__(self):
        # What a finalizer at the end of the process may find gone otherwise.
        self.step = step

    def __del__(self):
        self.step()
"""

BUSY = """
other = GpuAdam([np.zeros(size, np.float32)])
def work():
    while True:
        other.step(grads)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
"""
"""A thread that steps an optimizer of its own until the process ends."""

WAYS = {
    "del": "holder = Holder()",
    "del in a cycle": "holder = Holder(); holder.itself = holder",
    "del of a thread's": "local = threading.local(); local.holder = Holder()",
    "atexit": "atexit.register(step)",
    "atexit, twice": "atexit.register(step); atexit.register(step)",
    "after the threads": "threading._register_atexit(step)",
    "daemon thread": """
def work():
    while True:
        optimizer.step(grads)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
""",
    "daemon thread and atexit": BUSY
    + """
atexit.register(step)
""",
    "daemon thread and del": BUSY
    + """
holder = Holder()
""",
    "thread that outlives the main one": """
def work():
    time.sleep(0.3)
    step()
threading.Thread(target=work).start()
""",
    "del and atexit": "holder = Holder(); atexit.register(step); sys.exit(0)",
}


@pytest.mark.parametrize("start", ["begun", "not begun"])
@pytest.mark.parametrize("size", [500_000, pytest.param(10, marks=pytest.mark.long)])
@pytest.mark.parametrize("way", WAYS)
def test_the_process_ends(way: str, size: int, start: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "GPU_ADAM_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + WAYS[way], str(size), start],
        capture_output=True,
        text=True,
        env=environment,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    # A daemon thread keeps its module's objects alive to the end.
    if "daemon thread" not in way or "atexit" in way:
        assert "stepped" in done.stdout or "refused" in done.stdout
    if start == "begun" and ("atexit" in way or "thread that" in way):
        # Nothing is lacking yet.
        assert "refused" not in done.stdout
