"""``gpu-adam doctor``: what is here, which engines can run, whether their bits are right, and how near to the memory's speed they come."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from ..console import check_threads
from ..engines import ENGINES
from ..engines.compile import disk as cache
from .examination import examine_engine
from .machine import find_conflict, find_machine, find_packages
from .report import Report, as_dict, describe


def examine(engines: Sequence[str] = ENGINES) -> Report:
    """Look at the machine and try the engines; nothing is printed, and what fails is part of the report."""
    return Report(
        machine=find_machine(),
        packages=find_packages(),
        conflict=find_conflict(),
        cache_folder=cache.location(),
        cache_writable=cache.cache_dir() is not None,
        cache_fault=cache.fault(),
        engines=[examine_engine(name) for name in engines],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Examine and print.

    Args:
        argv: The arguments after ``doctor``.

    Returns:
        0 if an engine works and none that runs is wrong, else 1.
    """
    parser = argparse.ArgumentParser("gpu-adam doctor", description="What can run here, and what is missing.")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(argv)
    check_threads()
    report = examine()
    print(json.dumps(as_dict(report), indent=1) if options.json else describe(report))
    return report.status
