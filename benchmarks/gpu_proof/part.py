"""A part in its own process: ``python -m benchmarks.gpu_proof.part MODULE ARGUMENTS RESULT SECONDS [--dry-run]``.

A part is a module with ``run(report, arguments)``.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from .record import LeftOut, Report


def main(module: str, arguments: dict[str, Any], path: Path, seconds: float, dry_run: bool) -> int:
    """Run a part; the exit status is 0 unless it fails."""
    report = Report(path, seconds, dry_run=dry_run)
    report.save()
    # Asked to end, it ends as on Ctrl-C, so that what it has started is ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
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


if __name__ == "__main__":
    _, _module, _arguments, _path, _seconds, *_dry = sys.argv
    sys.exit(main(_module, json.loads(_arguments), Path(_path), float(_seconds), bool(_dry)))
