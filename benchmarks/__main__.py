"""``python -m benchmarks``: on the CPU measure, on a GPU prove and measure; print, save."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path

from gpu_adam.console import check_file, check_folder
from gpu_adam.console import run as run_program

from . import cpu
from .cases import CASES, QUICK, chosen
from .gpu_proof import prove
from .gpu_proof.parts import PARTS
from .runner import ROOT

RESULTS = ROOT / "benchmarks" / "results"
"""The figures that are committed, of machines that did nothing else."""

OUT = Path("runs", "bench")
DRY_OUT = ROOT / "runs" / "gpu-proof"
"""Of other runs on the CPU, and of dry runs, which nobody should take for figures: folders that are not kept."""

OF_CPU = ("quick", "repeats", "budget")
OF_GPU = ("minutes", "only", "resume", "data_dir", "dry_run", "readme")
"""Options that one device has."""


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
    gpu.add_argument("--only", nargs="+", metavar="PART", help=f"some of {', '.join(part.name for part in PARTS)}")
    gpu.add_argument(
        "--resume", action="store_true", help="go on with the last file of today: only parts that it lacks"
    )
    gpu.add_argument("--data-dir", type=Path, metavar="DIR", help="train on the MNIST in this folder")
    gpu.add_argument(
        "--dry-run", action="store_true", help="go through all of it on the CPU engine; nothing is measured"
    )
    gpu.add_argument("--readme", action="store_true", help="only print README's GPU figures, and put them there")
    return parser


def _on_cpu(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    try:
        cases = chosen(QUICK if options.quick else CASES, options.cases)
    except ValueError as error:
        parser.error(str(error))
    if options.repeats is not None and options.repeats < 1:
        parser.error("--repeats: at least 1")
    budget = 8.0 if options.budget is None else options.budget
    if not budget >= 0:
        parser.error(f"--budget {budget}: at least 0")
    folder: Path = options.out or OUT
    name = "cpu-quick" if options.quick else "cpu"
    try:  # now, and not after minutes of measuring
        check_folder(folder, "--out")
        for suffix in (".json", ".png"):
            check_file(folder / f"{name}{suffix}", "--out")
    except OSError as error:
        parser.error(str(error))
    repeats = options.repeats or (2 if options.quick else 25)
    results = cpu.run(cases, repeats, budget, quick=options.quick)
    for path in cpu.save(results, folder, name):
        print(path)
    return 0


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
