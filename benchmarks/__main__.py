"""``python -m benchmarks``: check, time, print, save."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_adam.console import check_file, check_folder
from gpu_adam.console import run as run_program
from gpu_adam.engines.threads import thread_count

from . import overhead, report, startup
from .cases import CASES, QUICK, Case, chosen
from .check import check
from .contenders import cpu_contenders, cuda_contenders
from .goals import goals
from .libraries import engines_at_hand, has_torch, synchronizer
from .start import Start
from .timing import interleave

RESULTS = Path(__file__).resolve().parent / "results"
"""The figures that are committed, of a machine that did nothing else."""

OUT = Path("runs", "bench")
"""Of all other runs, a folder that is not kept."""

# Processes for each figure of `startup`, and elements of the parameter whose step's peak memory is measured.
STARTUP = (5, 1 << 24)
QUICK_STARTUP = (1, 1 << 20)

OTHERS_SHARE = 0.4
"""Of a case's seconds, for other optimizers than Adam."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; the exit status is 0 unless a contender computes something else."""
    return run_program("benchmarks", lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="Measure the optimizers against others and against the limit."
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the arrays live (default: cpu)")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and few repeats: everything runs, nothing is meant"
    )
    parser.add_argument("--cases", nargs="*", metavar="CASE", help="only these; none for the other measurements alone")
    parser.add_argument("--repeats", type=int, help="rounds at most (default: 25)")
    parser.add_argument("--budget", type=float, default=8.0, help="seconds for the rounds of a case (default: 8)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, default=OUT, help="folder for the JSON and the PNG (default: runs/bench)")
    where.add_argument(
        "--publish", dest="out", action="store_const", const=RESULTS, help="write over the committed results"
    )
    options = parser.parse_args(arguments)
    try:
        cases = chosen(QUICK if options.quick else CASES, options.cases)
    except ValueError as error:
        parser.error(str(error))
    if options.repeats is not None and options.repeats < 1:
        parser.error("--repeats: at least 1")
    if not options.budget >= 0:
        parser.error(f"--budget {options.budget}: at least 0")
    if options.device == "cuda" and not set(engines_at_hand()) - {"cpu"}:
        parser.error("--device cuda: no GPU engine can run here; gpu-adam doctor says why")
    name = f"{options.device}-quick" if options.quick else options.device
    try:  # now, and not after minutes of measuring
        check_folder(options.out, "--out")
        for suffix in (".json", ".png"):
            check_file(options.out / f"{name}{suffix}", "--out")
    except OSError as error:
        parser.error(str(error))
    repeats = options.repeats or (2 if options.quick else 25)
    results = run(cases, options.device, repeats, options.budget, quick=options.quick)
    for path in report.save(results, options.out, name):
        print(path)
    return 0


def run(cases: Sequence[Case], device: str, repeats: int, budget: float, *, quick: bool) -> dict[str, Any]:
    """Measure, printing as it goes, and return all figures."""
    threads = thread_count()
    if has_torch():
        import torch

        torch.set_num_threads(threads)
    results: dict[str, Any] = {"machine": report.machine(device), "versions": report.versions(), "device": device}
    results["threads"] = threads
    print(", ".join(f"{name} {value}" for name, value in {**results["machine"], **results["versions"]}.items()))
    print(f"{threads} threads for each contender that takes a number of threads; NumPy has one")
    load, cores = results["machine"].get("load_at_start"), results["machine"]["cores"]
    if load is not None and load > 0.5 * cores:
        print(
            f"warning: the machine is busy (load {load:.1f} on {cores} cores), so absolute times mean little",
            file=sys.stderr,
        )
    results["cases"] = []
    for case in cases:
        with _Progress(case.name) as progress:
            share = 1.0 if case.optimizer == "adam" else OTHERS_SHARE
            result = run_case(case, device, repeats, share * budget, progress)
        results["cases"].append(result)
        print("\n" + report.case_table(result), flush=True)
    on_cpu = device == "cpu"
    counts = overhead.QUICK_COUNTS if quick else overhead.COUNTS
    results["overhead"] = overhead.measure(counts, repeats, budget / 2) if on_cpu else []
    results["startup"] = startup.measure(*(QUICK_STARTUP if quick else STARTUP)) if on_cpu else None
    reached = goals(results) if on_cpu else []
    results["goals"] = [goal.as_dict() for goal in reached]
    if on_cpu:
        print("\n" + report.overhead_table(results["overhead"]))
        print("\n" + report.startup_table(results["startup"]))
        print("\n" + report.goals_table(reached) + "\n")
    return results


def run_case(case: Case, device: str, repeats: int, budget: float, progress: Any = lambda: None) -> dict[str, Any]:
    """Check every contender of a case, then time all of them in turns.

    Raises:
        WrongResult: If one of them does not compute what it should.
    """
    start = Start.of(case)
    contenders = list((cpu_contenders if device == "cpu" else cuda_contenders)(start))
    for contender in contenders:
        check(contender, start)
    steps = {label: step for contender in contenders for label, step in contender.steps.items()}
    samples = interleave(steps, repeats=repeats, budget=budget, synchronize=synchronizer(device), progress=progress)
    return report.case_result(case, samples)


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


if __name__ == "__main__":
    sys.exit(main())
