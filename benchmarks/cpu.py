"""The benchmark on the CPU: the cases, what a step takes outside the kernel, and what only a new process can show."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu_adam.engines.threads import thread_count

from . import overhead, plots, report, startup
from .cases import Case
from .clocks import CpuClock
from .contenders import counterpart
from .goals import cpu_goals
from .libraries import has_torch
from .machine import BUSY, machine, versions
from .measure import described, measured
from .place import CPU
from .record import write

# Processes for each figure of `startup`, and elements of the parameter whose step's peak memory is measured.
STARTUP = (5, 1 << 24)
QUICK_STARTUP = (1, 1 << 20)

OTHERS_SHARE = 0.4
"""Of a case's seconds, for other optimizers than Adam."""


NAME, BESIDE = "cpu", (".png",)
"""What the files of results are called, and how those end that lie beside the figures."""

Keep = Callable[[dict[str, Any]], Any]
"""Told of all results so far, after each case."""


def run(cases: Sequence[Case], repeats: int, budget: float, *, quick: bool, keep: Keep) -> dict[str, Any]:
    """Measure, printing as it goes, and return all figures.

    Args:
        cases: The cases.
        repeats: Rounds at most.
        budget: Seconds for the rounds of a case.
        quick: Whether the other measurements are made small, too.
        keep: Is told of the results after each case.

    Raises:
        WrongResult: If a contender does not compute what it should.
    """
    results = begun()
    measure_cases(results, cases, repeats, budget, keep)
    results["overhead"] = overhead.measure(overhead.QUICK_COUNTS if quick else overhead.COUNTS, repeats, budget / 2)
    results["startup"] = startup.measure(*(QUICK_STARTUP if quick else STARTUP))
    goals = cpu_goals(results)
    results["goals"] = [goal.as_dict() for goal in goals]
    print("\n" + report.overhead_table(results["overhead"]))
    print("\n" + report.startup_table(results["startup"]))
    print("\n" + report.goals_table(goals) + "\n")
    return results


def begun() -> dict[str, Any]:
    """Results that say where they are measured and with what, which is printed as well; torch gets as many threads as the engine."""
    threads = thread_count()
    if has_torch():
        import torch

        torch.set_num_threads(threads)
    results: dict[str, Any] = {"machine": machine("cpu"), "versions": versions(), "device": "cpu", "threads": threads}
    print(", ".join(f"{name} {value}" for name, value in {**results["machine"], **results["versions"]}.items()))
    print(f"{threads} threads for each contender that takes a number of threads; NumPy has one")
    load, cores = results["machine"].get("load_at_start"), results["machine"]["cores"]
    if load is not None and load > BUSY * cores:
        print(
            f"warning: the machine is busy (load {load:.1f} on {cores} cores), so absolute times mean little",
            file=sys.stderr,
        )
    return results


def measure_cases(results: dict[str, Any], cases: Sequence[Case], repeats: int, budget: float, keep: Keep) -> None:
    """Add the figures of cases to results, and print them; the arguments are those of `run`."""
    results["cases"] = []
    for case in cases:
        with _Progress(case.name) as progress:
            share = 1.0 if case.optimizer == "adam" else OTHERS_SHARE
            result = run_case(case, repeats, share * budget, progress)
        results["cases"].append(result)
        print("\n" + report.case_table(result), flush=True)
        keep(results)


def run_case(case: Case, repeats: int, budget: float, progress: Any = lambda: None) -> dict[str, Any]:
    """Check every contender of a case, then time all of them in turns.

    Raises:
        WrongResult: If one of them does not compute what it should.
    """
    timed, _ = measured(case, CPU, CpuClock(), rounds=repeats, seconds=budget, progress=progress)
    torch = counterpart(case)
    return {**described(case), "torch": torch, "rows": [report.case_row(label, timed, torch) for label in timed]}


def save(results: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write ``name.json``, and ``name.png`` where matplotlib is installed; return what was written."""
    path = folder / f"{name}.json"
    write(path, results)
    return [path, *plots.save_cpu(results, path.with_suffix(".png"))]


class _Progress:
    """Samples taken, on standard error where that is a terminal and tqdm is installed."""

    def __init__(self, name: str) -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(desc=name, unit=" samples", leave=False)

    def __enter__(self) -> Any:
        return (lambda: None) if self._bar is None else self._bar.update

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
