"""``python -m examples.paper``: run, draw, write up."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.machine import machine, versions
from gpu_adam.console import check_file, check_folder
from gpu_adam.console import run as run_program
from gpu_adam.engines.threads import thread_count
from gpu_adam.errors import EngineUnavailable
from gpu_adam.train.backend import choose
from gpu_adam.train.data import DataError

from . import data, figures, page, theory
from .experiments import EXPERIMENTS
from .pool import run_all
from .settings import SCALES, Run
from .training import Result

PUBLISHED = Path(__file__).resolve().parent
"""Where the committed results are."""

OUT = Path("runs", "paper")
"""Of all other runs, a folder that is not kept."""

_THEORY = "theory"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run experiments; the exit status is 0 unless data or a GPU is missing."""
    return run_program("examples.paper", lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    options = _options(arguments)
    try:
        check_folder(options.out / "results", "--out")
        check_file(options.out / "RESULTS.md", "--out")
    except OSError as error:
        print(f"examples.paper: {error}", file=sys.stderr)
        return 2
    try:
        backend = choose({"cpu": "cpu", "auto": "auto", "cuda": "cupy"}[options.device])
        sets = {EXPERIMENTS[name].data for name in options.names if name != _THEORY}
        prints = {name: data.fingerprint(data.load(name, options.data_dir)) for name in sorted(sets)}
        _run(options, backend, prints)
    except (DataError, EngineUnavailable) as error:
        print(f"examples.paper: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [*EXPERIMENTS, _THEORY]
    parser = argparse.ArgumentParser(
        "python -m examples.paper",
        description="Reproduce the figures of the Adam paper. A command that was stopped goes on where it was.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"by default all of {', '.join(names)}")
    scale = parser.add_mutually_exclusive_group()
    for one, told in SCALES.items():
        scale.add_argument(f"--{one}", dest="scale", action="store_const", const=one, help=told)
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), metavar="DIR", help="the folder of the data (%(default)s)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="DIR",
        help="where RESULTS.md, results/ and runs/ go (runs/paper)",
    )
    where.add_argument(
        "--publish", dest="out", action="store_const", const=PUBLISHED, help="write over the committed results"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s)")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="processes on a CPU, each with one thread; 0 for none but this one (one for each core)",
    )
    parser.set_defaults(scale="quick")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in names]
    if unknown:
        parser.error(f"no experiment is called {', '.join(unknown)}: use {', '.join(names)}")
    if options.jobs is not None and options.jobs < 0:
        parser.error("--jobs: at least 0")
    no_torch = find_spec("torch") is None
    if no_torch and "cnn" in options.names:
        parser.error("cnn: needs PyTorch, which is not installed")
    if no_torch and not options.names:
        print("cnn is left out: it needs PyTorch, which is not installed", file=sys.stderr)
        names.remove("cnn")
    options.names = options.names or names
    return options


def _run(options: argparse.Namespace, backend: Any, prints: dict[str, str]) -> None:
    results: Path = options.out / "results"
    device = "cpu" if backend.engine == "cpu" else "cuda"
    where = {"device": device, "machine": machine(device), "versions": versions()}
    runs = {
        name: list(EXPERIMENTS[name].runs(name, options.scale, prints[EXPERIMENTS[name].data]))
        for name in options.names
        if name != _THEORY
    }
    outcomes: dict[str, dict[str, Result]] = {name: {} for name in runs}

    def done(run: Run, result: Result) -> None:
        outcomes[run.experiment][run.key] = result
        if len(outcomes[run.experiment]) == len(runs[run.experiment]):
            found = _found(run.experiment, options.scale, runs[run.experiment], outcomes[run.experiment])
            _save(results, run.experiment, options.scale, {**found, **where})
            page.write(results, options.out / "RESULTS.md")

    jobs = thread_count() if options.jobs is None else options.jobs
    tasks = [(run, EXPERIMENTS[name].data) for name, each in runs.items() for run in each]
    # Apart, since a CPU and a GPU add in different orders.
    folder = options.out / "runs" / device
    run_all(tasks, options.data_dir, folder, backend, jobs if device == "cpu" else 0, done)
    if _THEORY in options.names:
        found = theory.measure(options.scale in ("tiny", "quick"))
        theory.draw(found, results / f"{options.scale}-{_THEORY}.png")
        _json(results / f"{options.scale}-{_THEORY}.json", {"scale": options.scale, **where, "results": found})
        page.write(results, options.out / "RESULTS.md")
    print(options.out / "RESULTS.md")


def _found(name: str, scale: str, runs: Sequence[Run], outcomes: dict[str, Result]) -> dict[str, Any]:
    experiment = EXPERIMENTS[name]
    total = int(runs[0].data.partition("-")[0])
    return {
        "experiment": name,
        "title": experiment.title,
        "figure": experiment.figure,
        "scale": scale,
        "epochs": runs[0].epochs,
        "examples": min(runs[0].examples or total, total),
        "paper": experiment.paper,
        "batch": runs[0].batch,
        "decays": runs[0].decays,
        "l2": runs[0].l2,
        "noise": runs[0].model,
        "runs": [{"label": run.label, "chosen": run.chosen, **outcomes[run.key]} for run in runs],
    }


def _save(results: Path, name: str, scale: str, found: dict[str, Any]) -> None:
    _json(results / f"{scale}-{name}.json", found)
    figures.draw(name, found, results / f"{scale}-{name}.png")


def _json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
