"""A part in its own process: ``python -m benchmarks.gpu_proof.part MODULE ARGUMENTS RESULT SECONDS [--dry-run]``.

A part is a module with ``run(report, arguments)``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

from ..record import LeftOut, Report
from ..runner import end_all


def main(module: str, arguments: dict[str, Any], path: Path, seconds: float, dry_run: bool) -> int:
    """Run a part; the exit status is 0 unless it fails."""
    report = Report(path, seconds, dry_run=dry_run)
    report.save()
    signal.signal(signal.SIGTERM, _end)
    Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    try:
        import_module(module).run(report, arguments)
    except LeftOut as reason:
        report.save("left out", str(reason))
        return 0
    except Exception as error:
        traceback.print_exc()
        report.save("failed", f"{type(error).__name__}: {error}"[:1000])
        return 1
    report.save("done")
    return 0


def _end(*arguments: Any) -> None:
    """Asked to end, do so as on Ctrl-C. What this process has started is of other sessions, and nobody else would end it."""
    end_all()
    raise KeyboardInterrupt


def _follow(runner: int) -> None:
    """End with whoever has started this process: nobody would stop it any more."""
    while os.getppid() == runner:
        sleep(0.5)
    end_all()
    os._exit(1)


if __name__ == "__main__":
    _, _module, _arguments, _path, _seconds, *_dry = sys.argv
    sys.exit(main(_module, json.loads(_arguments), Path(_path), float(_seconds), bool(_dry)))
