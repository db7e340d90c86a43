"""An engine tried in a process of its own first: a compiler or a driver may end the process, and the doctor must still say so."""

from __future__ import annotations

import subprocess
import sys

SECONDS = 600.0
"""How long it may take: kernels are compiled."""

_PROGRAM = """
import sys
sys.path[:] = {path!r}
from gpu_adam.doctor.examination import try_engine
try:
    try_engine({engine!r})
except Exception:
    pass  # the doctor meets it too, and says more of it
"""


def rehearse(engine: str) -> str | None:
    """How a process ended that tried the engine, and what it said last; ``None`` if it came to its end."""
    program = _PROGRAM.format(path=sys.path, engine=engine)
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"a process that tried it did not end within {SECONDS / 60:.0f} minutes"
    # A process that Python ends has a status from 0 to 2; 1 means here that it could not even begin, which says nothing of the engine.
    if 0 <= done.returncode <= 2:
        return None
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
    said = " ".join(done.stderr.split()[-60:])
    return f"a process that tried it was ended by {how}{': ' if said else ''}{said}"
