"""``python -m benchmarks``: on the CPU measure, on a GPU prove and measure; print, save."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from gpu_adam.console import check_file, check_folder
from gpu_adam.console import run as run_program

from . import cpu
from .cases import CASES, QUICK, Case, chosen
from .gpu_proof import prove
from .gpu_proof.parts import PARTS
from .record import write
from .runner import ROOT
from .training import cases as training_cases
from .training import page as training_page
from .training import run as training

RESULTS = ROOT / "benchmarks" / "results"
"""The figures that are committed, of machines that did nothing else."""

OUT = Path("runs", "bench")
DRY_OUT = ROOT / "runs" / "gpu-proof"
"""Of other runs on the CPU, and of dry runs, which nobody should take for figures: folders that are not kept."""

OF_CPU = ("quick", "repeats", "budget")
OF_GPU = ("minutes", "resume", "data_dir", "dry_run")
"""Options that one device has."""


@dataclass(frozen=True)
class CpuPart:
    """What is measured on the CPU, with results of its own.

    Attributes:
        name: What ``--only`` calls it.
        program: What runs it, saves its results and names them.
        cases: Its cases.
        quick: Those for ``--quick``.
    """

    name: str
    program: Any
    cases: Sequence[Case]
    quick: Sequence[Case]


CPU_PARTS = (
    CpuPart("arrays", cpu, CASES, QUICK),
    CpuPart("training", training, training_cases.CASES, training_cases.QUICK),
)
"""NumPy arrays, beside torch tensors, that stay the same; and torch tensors in a training loop."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; what the exit status means is said below."""
    return run_program("benchmarks", lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    """On the CPU the exit status is 0 unless a contender computes something else; on a GPU see `gpu_proof.prove.prove`."""
    parser = _parser()
    options = parser.parse_args(arguments)
    foreign, device = (OF_GPU, "cuda") if options.device == "cpu" else (OF_CPU, "cpu")
    for name in foreign:
        if getattr(options, name) not in (None, False):
            parser.error(f"--{name.replace('_', '-')} is for --device {device}")
    return (_on_cpu if options.device == "cpu" else _on_gpu)(parser, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Measure the optimizers against others and against the limit; on a GPU also prove what needs one, "
        "in one go and in bounded time.",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the arrays live (default: cpu)")
    parser.add_argument("--cases", nargs="*", metavar="CASE", help="only these; on the CPU none for the rest alone")
    parts = f"on the CPU of {', '.join(part.name for part in CPU_PARTS)}, on a GPU of {', '.join(part.name for part in PARTS)}"
    parser.add_argument("--only", nargs="+", metavar="PART", help=f"some of the parts: {parts}")
    parser.add_argument(
        "--readme", action="store_true", help="only print README's figures of the device, and put them there"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--out", type=Path, help="folder for the results (default: runs/bench; of a GPU benchmarks/results)"
    )
    where.add_argument(
        "--publish", dest="out", action="store_const", const=RESULTS, help="write over the committed results"
    )
    cpu = parser.add_argument_group("on the CPU")
    cpu.add_argument(
        "--quick", action="store_true", help="small sizes and few repeats: everything runs, nothing is meant"
    )
    cpu.add_argument("--repeats", type=int, help="rounds at most (default: 25)")
    cpu.add_argument("--budget", type=float, help="seconds for the rounds of a case (default: 8)")
    gpu = parser.add_argument_group("on a GPU")
    gpu.add_argument("--minutes", type=float, help="for all of it (default: 8)")
    gpu.add_argument(
        "--resume", action="store_true", help="go on with the last file of today: only parts that it lacks"
    )
    gpu.add_argument("--data-dir", type=Path, metavar="DIR", help="train on the MNIST in this folder")
    gpu.add_argument(
        "--dry-run", action="store_true", help="go through all of it on the CPU engine; nothing is measured"
    )
    return parser


def _on_cpu(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.readme:
        return training_page.update_readme(options.out or RESULTS, ROOT / "README.md")
    try:
        parts = _cpu_parts(options)
    except ValueError as error:
        parser.error(str(error))
    if options.repeats is not None and options.repeats < 1:
        parser.error("--repeats: at least 1")
    budget = 8.0 if options.budget is None else options.budget
    if not budget >= 0:
        parser.error(f"--budget {budget}: at least 0")
    folder: Path = options.out or OUT
    suffix = "-quick" if options.quick else ""
    try:  # now, and not after minutes of measuring
        check_folder(folder, "--out")
        for part, _ in parts:
            for ending in (".json", *part.program.BESIDE):
                check_file(folder / f"{part.program.NAME}{suffix}{ending}", "--out")
    except OSError as error:
        parser.error(str(error))
    repeats = options.repeats or (2 if options.quick else 25)
    for part, cases in parts:
        name = f"{part.program.NAME}{suffix}"
        unfinished = folder / f"{name}-unfinished.json"
        results = part.program.run(cases, repeats, budget, quick=options.quick, keep=partial(write, unfinished))
        for path in part.program.save(results, folder, name):
            print(path)
        unfinished.unlink(missing_ok=True)
    return 0


def _cpu_parts(options: argparse.Namespace) -> list[tuple[CpuPart, list[Case]]]:
    """The parts that were asked for, with their cases; where cases were named, those that have one of them.

    Raises:
        ValueError: For a part or a case that there is not.
    """
    parts = chosen(CPU_PARTS, options.only, "part")
    given = [(part, part.quick if options.quick else part.cases) for part in parts]
    asked = chosen([case for _, cases in given for case in cases], options.cases)
    found = [(part, [case for case in cases if case in asked]) for part, cases in given]
    return [(part, cases) for part, cases in found if cases or not options.cases]


def _on_gpu(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    folder: Path = options.out or (DRY_OUT if options.dry_run else RESULTS)
    if options.readme:
        return prove.update_readme(folder, ROOT / "README.md")
    try:
        parts = chosen(PARTS, options.only, "part")
    except ValueError as error:
        parser.error(str(error))
    minutes = 8.0 if options.minutes is None else options.minutes
    if not 0 < minutes < inf:
        parser.error(f"--minutes {minutes}: must be more than 0, and finite")
    if options.data_dir is not None and not options.data_dir.is_dir():
        parser.error(f"--data-dir {options.data_dir} is no folder")
    try:
        check_folder(folder, "--out")
    except OSError as error:
        parser.error(str(error))
    data = options.data_dir and str(options.data_dir.resolve())
    given = {"bench": {"cases": options.cases} if options.cases else {}, "training": {"data_dir": data} if data else {}}
    # What ends other programs ends this one as Ctrl-C does: with what there is written down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Parts work in the checkout, wherever this was started.
    folder = folder.resolve()
    return prove.prove(parts, 60 * minutes, folder, given, dry_run=options.dry_run, resume=options.resume)


if __name__ == "__main__":
    sys.exit(main())
