"""A part in its own process: ``python -m benchmarks.gpu_proof.part NAME ARGUMENTS RESULT SECONDS [--dry-run]``."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from .record import LeftOut, Report

MODULES = {
    "bits": "bits",
    "bits of one": "bits_of_one",
    "bench": "bench",
    "counts": "counts",
    "tests": "suite",
    "sanitizers": "sanitizers",
    "counters": "counters",
    "training": "training",
    "sweep": "sweep",
    "machine": "machine",
}
"""Where each part's ``run(report, arguments)`` is."""


def main(name: str, arguments: dict[str, Any], path: Path, seconds: float, dry_run: bool) -> int:
    """Run a part; the exit status is 0 unless it fails."""
    report = Report(path, seconds, dry_run=dry_run)
    report.save()
    # Asked to end, it ends as on Ctrl-C, so that what it has started is ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        import_module(f".{MODULES[name]}", __package__).run(report, arguments)
    except LeftOut as reason:
        report.save("left out", str(reason))
        return 0
    except Exception as error:
        traceback.print_exc()
        report.save("failed", f"{type(error).__name__}: {error}"[:1000])
        return 1
    report.save("done")
    return 0


if __name__ == "__main__":
    _, _name, _arguments, _path, _seconds, *_dry = sys.argv
    sys.exit(main(_name, json.loads(_arguments), Path(_path), float(_seconds), bool(_dry)))
