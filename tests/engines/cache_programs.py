"""What the tests of the kernel cache run in processes of their own: as other users, with another umask, and until they are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

NOBODY = 65534
"""A user who owns nothing here."""

STRANGER = 54321
"""Another."""


def can_be_others() -> bool:
    """Whether this process may become other users and give them files, which takes the superuser, and a namespace that knows them."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    try:
        with tempfile.NamedTemporaryFile() as file:
            for user in (NOBODY, STRANGER):
                os.chown(file.name, user, user)
    except OSError:
        return False
    return True


_BEGIN = """
import os, pickle, sys, warnings
warnings.simplefilter("always")
import gpu_adam
from gpu_adam.engines.compile import disk as cache
"""

_BECOME = """
os.setgroups([{user}])
os.setgid({user})
os.setuid({user})
"""


def run(program: str, folder: Path, user: int | None = None, **environment: str) -> tuple[str, str]:
    """What a new process prints and warns of that has imported the cache, and become a user if one is named."""
    become = "" if user is None else _BECOME.format(user=user)
    done = subprocess.run(
        [sys.executable, "-c", _BEGIN + become + program],
        env={**os.environ, "GPU_ADAM_CACHE_DIR": str(folder), **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


NURSERY = """
import random, signal, time
def killed(work, seconds, number):
    '''How many of some processes were killed while they worked, each after a random part of a time.'''
    draw, found = random.Random(0), 0
    for k in range(number):
        ready, go = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(go, b"x")
                work(k)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(2)
            os._exit(0)
        os.read(ready, 1)
        os.close(ready)
        os.close(go)
        time.sleep(draw.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), status
        found += status != 0
    return found
"""
"""Processes are forked from one that has imported everything, so that a kill falls into the work."""
