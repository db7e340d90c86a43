"""Steps where threads cannot be started, or where the process is about to end: whole and with the same bits, and nobody hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of threads are tried on Linux")

PROGRAM = """
import gc, os, sys, threading
import numpy as np
from gpu_adam import GpuAdam

SIZES = (7, 400_000, 3, 300_000)

def values(seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size).astype(np.float32) for size in SIZES]

def expected(steps):
    # In pieces that are nobody's to share out.
    out = []
    for p, g in zip(values(0), values(1)):
        for at in range(0, p.size, 50_000):
            part, gradient = p[at : at + 50_000], g[at : at + 50_000]
            optimizer = GpuAdam([part], **OPTIONS)
            for _ in range(steps):
                optimizer.step([gradient])
        out.append(p)
    return out

def tasks():
    return len(os.listdir("/proc/self/task"))

def check(steps):
    for p, wanted in zip(params, expected(steps)):
        assert p.tobytes() == wanted.tobytes(), steps

OPTIONS = {"pack": sys.argv[1] == "pack"}
params, grads = values(0), values(1)
if sys.argv[2] == "warm":
    # Everything is compiled, and no thread has been needed.
    expected(1)
limit()
optimizer = GpuAdam(params, **OPTIONS)
for step in range(1, 11):
    optimizer.step(grads)
    if step in (1, 2, 10):
        check(step)
gc.collect()
objects, threads = len(gc.get_objects()), tasks()
for _ in range(30):
    optimizer.step(grads)
gc.collect()
assert len(gc.get_objects()) < objects + 30
assert tasks() <= threads + 3
check(40)
lift()
optimizer.step(grads)
check(41)
print("whole", threads)
"""

PATCHED = """
import _thread, threading
before = _thread.start_new_thread, threading._start_new_thread
left = {left}

def refused(*args, **kwargs):
    global left
    if left == 0:
        raise RuntimeError("can't start new thread")
    left -= 1
    return before[0](*args, **kwargs)

def limit():
    _thread.start_new_thread = threading._start_new_thread = refused

def lift():
    _thread.start_new_thread, threading._start_new_thread = before
"""

ULIMIT = """
import os, resource

def limit():
    if os.getuid() == 0:
        os.setgid(54321)
        os.setuid(54321)
    most = len(os.listdir("/proc/self/task")) + {left} if os.getuid() == 54321 else 1
    resource.setrlimit(resource.RLIMIT_NPROC, (most, resource.getrlimit(resource.RLIMIT_NPROC)[1]))

def lift():
    most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
"""

PIDS = """
import os, pathlib

def limit():
    group = pathlib.Path({group!r})
    (group / "cgroup.procs").write_text(str(os.getpid()))
    (group / "pids.max").write_text(str(len(os.listdir("/proc/self/task")) + {left}))

def lift():
    pathlib.Path({group!r}, "pids.max").write_text("max")
"""


def run(program: str, *arguments: str, threads: int = 4, timeout: int = 120) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "GPU_ADAM_NUM_THREADS": str(threads),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group that may limit its threads."""
    for place in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
        folder = Path(place, f"gpu_adam-{os.getpid()}")
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if (folder / "pids.max").exists():
                yield folder
                return
        finally:
            folder.rmdir()
    pytest.skip("no control group with a limit of threads can be made here")


@pytest.mark.parametrize("left", [0, 1, 2])
@pytest.mark.parametrize("form", ["pack", "in place"])
def test_where_threads_cannot_be_started_the_caller_does_their_shares(form: str, left: int) -> None:
    assert run(PATCHED.format(left=left) + PROGRAM, form, "warm").startswith("whole")


def test_the_first_step_of_all_needs_no_thread() -> None:
    assert run(PATCHED.format(left=0) + PROGRAM, "in place", "cold").startswith("whole")


@pytest.mark.parametrize("left", [0, 1])
def test_a_users_limit_of_processes(left: int) -> None:
    assert run(ULIMIT.format(left=left) + PROGRAM, "in place", "warm").startswith("whole")


@pytest.mark.parametrize(("left", "start"), [(0, "warm"), (0, "cold"), (2, "warm")])
def test_a_limit_of_a_control_group(group: Path, left: int, start: str) -> None:
    assert run(PIDS.format(group=str(group), left=left) + PROGRAM, "in place", start).startswith("whole")


def test_only_as_many_threads_as_shares() -> None:
    free = "def limit(): pass\nlift = limit\n"
    # Two tensors of four and three shares of at least 2^17 elements; a helper may be there besides.
    assert int(run(free + PROGRAM, "in place", "warm", threads=1000).split()[1]) <= 10
