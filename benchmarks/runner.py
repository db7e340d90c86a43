"""Commands and parts in processes of their own: whatever becomes of one, the caller gets an answer in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from .record import read

ROOT = Path(__file__).resolve().parents[1]
"""The checkout, which need not be installed."""

GRACE = 3.0
"""Seconds between asking a process that ran past its limit to end, and ending it."""

TAIL = 4000
"""Characters that are kept of the output of what failed."""

_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class Outcome:
    """What became of a command.

    Attributes:
        status: ``"done"``, ``"failed"``, ``"died"`` by a signal, or ``"timed out"``.
        why: Where it is not done, in words.
        seconds: How long it took.
        output: What it wrote.
    """

    status: str
    why: str
    seconds: float
    output: str


def guarded(command: Sequence[str], seconds: float, added: Mapping[str, str] | None = None) -> Outcome:
    """Run a command for so long at most, together with all processes that it starts."""
    start = monotonic()
    with tempfile.TemporaryFile() as log:
        try:
            # Of a session of its own, so that what it has started can be ended with it.
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(added),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome("failed", f"{command[0]}: {error.strerror}", 0.0, "")
        timed_out = False
        _running.add(process)
        try:
            process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            # Also after it has ended, and on Ctrl-C: its children may run on.
            _end(process)
            _running.discard(process)
        log.seek(0)
        output = log.read().decode(errors="replace")
    spent = monotonic() - start
    if timed_out:
        return Outcome("timed out", f"stopped after {spent:.0f} s", spent, output)
    if process.returncode < 0:
        return Outcome("died", f"by {_signal_name(-process.returncode)}", spent, output)
    if process.returncode:
        return Outcome("failed", _last_line(output) or f"exit status {process.returncode}", spent, output)
    return Outcome("done", "", spent, output)


def environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for a program that is started here: it finds the checkout, and what is ``added``."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A pytest that is started here is nobody's worker, whoever runs this.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**inherited, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **(added or {})}


def end_all() -> None:
    """End every command that is running, at once: whoever started them is about to end too."""
    for process in [*_running]:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def run_part(
    module: str,
    arguments: Mapping[str, Any],
    seconds: float,
    *,
    dry_run: bool,
    added: Mapping[str, str] | None = None,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Run a part; what it has found, and what became of it, as they stand in the results.

    Args:
        module: The part's module.
        arguments: The part's own.
        seconds: Its limit.
        dry_run: Whether to do without a GPU.
        added: Variables to add to the environment.
        keep: A file for what it has found so far, which stays if this process is ended; by default none stays.
    """
    with tempfile.TemporaryDirectory(prefix="gpu-proof-") as folder:
        path = keep or Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.gpu_proof.part", module, json.dumps(dict(arguments)), str(path)]
        command += [str(max(0.0, seconds - GRACE)), *(["--dry-run"] if dry_run else [])]
        outcome = guarded(command, seconds, added)
        found = read(path) or {"status": "running", "dry_run": dry_run, "result": {}}
        path.unlink(missing_ok=True)
    said = found.pop("status")
    # A part that says that it is done may still have died while its libraries were taken down; its figures are whole.
    status, why = (outcome.status, outcome.why) if said == "running" else (said, found.pop("why", ""))
    if said == "running" and outcome.status == "done":
        status, why = "failed", "it ended without saying so"
    if said == "done" and outcome.status != "done":
        why = f"afterwards: {outcome.status} {outcome.why}"
    entry = {"status": status, **({"why": why} if why else {}), "seconds": round(outcome.seconds, 1), **found}
    if status not in ("done", "left out"):
        entry["output"] = outcome.output[-TAIL:]
    return entry


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:500] if lines else ""
