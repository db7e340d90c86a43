"""``python -m benchmarks.gpu_proof``: prove, measure, write down."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime, timezone
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from gpu_adam.console import check_folder, run

from ..cases import chosen
from ..goals import Goal
from ..report import goals_table
from . import plots, readme
from .goals import goals
from .machine import digest
from .page import page
from .parts import LEAST, PARTS, Part, limits
from .record import LeftOut, read, write
from .runner import ROOT, run_part

RESULTS = ROOT / "benchmarks" / "results"
DRY_RESULTS = ROOT / "runs" / "gpu-proof"
"""Of dry runs, which nobody should take for figures: a folder that is not kept."""

MACHINE_SECONDS = 60.0
"""For telling what it runs on: on a machine that was just started everything is read from the disk for the first time."""

ENDED = ("done", "left out")
"""What a part that need not be run again is."""

ENVIRONMENT = {
    # JAX takes three quarters of the memory otherwise, before anybody else has any.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prove and measure; what the exit status means is said below."""
    return run("benchmarks.gpu_proof", lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    """Run the parts; the exit status is 0 if each is done or left out for what is missing, and every goal of correctness is reached."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu_proof",
        description="Prove and measure on a GPU, in one go and in bounded time; results are written as they come.",
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of it (default: 8)")
    parser.add_argument("--only", nargs="+", metavar="PART", help=f"some of {', '.join(part.name for part in PARTS)}")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="of the benchmark only these")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the last file of today: only parts that it lacks"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="train on the MNIST in this folder")
    parser.add_argument(
        "--out", type=Path, help="folder for the results (default: benchmarks/results; of a dry run runs/gpu-proof)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="go through all of it on the CPU engine; nothing is measured"
    )
    parser.add_argument("--readme", action="store_true", help="only print README's GPU figures, and put them there")
    options = parser.parse_args(arguments)
    folder = options.out or (DRY_RESULTS if options.dry_run else RESULTS)
    if options.readme:
        return update_readme(folder, ROOT / "README.md")
    try:
        parts = chosen(PARTS, options.only, "part")
    except ValueError as error:
        parser.error(str(error))
    if not 0 < options.minutes < inf:
        parser.error(f"--minutes {options.minutes}: must be more than 0, and finite")
    if options.data_dir is not None and not options.data_dir.is_dir():
        parser.error(f"--data-dir {options.data_dir} is no folder")
    try:  # now, and not after minutes of measuring
        check_folder(folder, "--out")
    except OSError as error:
        parser.error(str(error))
    data = options.data_dir and str(options.data_dir.resolve())
    given = {"bench": {"cases": options.cases} if options.cases else {}, "training": {"data_dir": data} if data else {}}
    # What ends other programs ends this one as Ctrl-C does: with what there is written down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return prove(parts, 60 * options.minutes, folder, given, dry_run=options.dry_run, resume=options.resume)


def prove(
    parts: Sequence[Part], seconds: float, folder: Path, given: dict[str, Any], *, dry_run: bool, resume: bool = False
) -> int:
    """Run the parts one after the other, each within its time; what there is is written after each."""
    start = monotonic()
    try:
        path, results = opened(folder, about(seconds, dry_run), dry_run, resume)
    except LeftOut as reason:
        print(f"{reason}: --dry-run goes through everything without one", file=sys.stderr)
        return 2
    print(f"{results['machine'].get('gpu', 'unknown GPU')}, commit {results['commit']}: {path}", flush=True)
    if dry_run:
        print("Dry run: nothing is measured on a GPU.", flush=True)
    done = results["parts"]
    if resume:
        parts = [part for part in parts if done.get(part.name, {}).get("status") not in ENDED]
    begun = monotonic()
    try:
        for part, end in limits(parts, seconds - (begun - start)):
            limit = end - (monotonic() - begun)
            if limit < LEAST:
                print(f"{part.name}: not begun, its time was over", flush=True)
                done[part.name] = {
                    "status": "not begun",
                    "why": "its time was over",
                    "seconds": 0.0,
                    "dry_run": dry_run,
                }
                continue
            print(f"{part.name}: {part.what}, {limit:.0f} s at most", flush=True)
            done[part.name] = {"status": "interrupted", "seconds": 0.0, "dry_run": dry_run}
            arguments = given.get(part.name, {})
            keep = so_far(path, part)
            found = run_part(part.module, arguments, limit, dry_run=dry_run, environment=ENVIRONMENT, keep=keep)
            done[part.name] = {**found, "limit": round(limit, 1)}
            print(f"  {found['status']} in {found['seconds']:.0f} s {found.get('why', '')}".rstrip(), flush=True)
            save(path, results)
    except KeyboardInterrupt:
        recover(path, results)
        save(path, results)
        print(f"Interrupted: what there is is in {path}", file=sys.stderr)
        return 130
    written = save(path, results, drawn(results, folder, path.stem))
    if written:
        print("\n" + goals_table(written), flush=True)
    print(f"{path}\n{path.with_suffix('.md')}")
    ended = all(done.get(part.name, {}).get("status") in ENDED for part in parts)
    return 0 if ended and not any(goal.reached is False for goal in written if goal.unit == "n") else 1


def drawn(results: dict[str, Any], folder: Path, name: str) -> list[str]:
    """The names of the plots; none where they cannot be drawn, which must not cost the figures."""
    try:
        return [plot.name for plot in plots.save(results, folder, name)]
    except Exception:
        traceback.print_exc()
        return []


def about(seconds: float, dry_run: bool) -> dict[str, Any]:
    """The machine, the versions and the source; what can be told without asking the GPU where that fails.

    Raises:
        LeftOut: If there is no GPU.
    """
    found = run_part(f"{__package__}.machine", {}, min(MACHINE_SECONDS, seconds / 4), dry_run=dry_run)
    if found["status"] == "done":
        return found["result"]  # type: ignore[no-any-return]
    if found["status"] == "left out":
        raise LeftOut(found["why"])
    why = f"{found['status']} {found.get('why', '')}".strip()
    print(f"what it runs on cannot be told: {why}\n{found.get('output', '')}", file=sys.stderr)
    return {"machine": {"gpu": "unknown", "why": why}, "versions": {}, "commit": "unknown", "source": digest()}


def opened(folder: Path, about: dict[str, Any], dry_run: bool, resume: bool) -> tuple[Path, dict[str, Any]]:
    """A new file for today's results of this GPU, or with ``resume`` the last one, if it is of the same source."""
    now = datetime.now(timezone.utc)
    gpu = re.sub(r"[^a-z0-9]+", "-", str(about["machine"].get("gpu", "unknown")).lower()).strip("-")
    name = f"gpu-proof-{'dry-run' if dry_run else gpu}-{now:%Y-%m-%d}"
    paths = [folder / f"{name}.json"]
    while paths[-1].exists():
        paths.append(folder / f"{name}-{len(paths) + 1}.json")
    new = {"dry_run": dry_run, "date": now.isoformat(timespec="seconds"), **about}
    there = read(paths[-2]) if resume and len(paths) > 1 else None
    if there and (there["source"], there["dry_run"]) == (about["source"], dry_run):
        recover(paths[-2], there)
        return paths[-2], {**there, **new}
    return paths[-1], {**new, "kernels": [], "goals": [], "parts": {}}


def so_far(path: Path, part: Part) -> Path:
    """Where a part writes what it has found so far."""
    return path.with_suffix(f".{part.name}-so-far")


def recover(path: Path, results: dict[str, Any]) -> None:
    """Take up what parts have found whose runner was interrupted, or ended without a word."""
    for part in PARTS:
        if found := read(so_far(path, part)):
            interrupted = {"status": "interrupted", "seconds": 0.0, "dry_run": results["dry_run"]}
            results["parts"][part.name] = {**interrupted, "result": found["result"]}
        so_far(path, part).unlink(missing_ok=True)


def save(path: Path, results: dict[str, Any], images: Sequence[str] = ()) -> list[Goal]:
    """Write the results, what follows from them, and the page; the goals.

    A figure of an unexpected kind may keep the goals or the page from being made, not the results from being written.
    """
    results["kernels"] = [
        kernel for part in results["parts"].values() for kernel in part.get("result", {}).get("kernels", [])
    ]
    write(path, results)
    found: list[Goal] = []
    try:
        found = goals(results)
        results["goals"] = [goal.as_dict() for goal in found]
        write(path, results)
        path.with_suffix(".md").write_text(page(results, images), encoding="utf-8")
    except Exception:
        traceback.print_exc()
    return found


def update_readme(folder: Path, path: Path) -> int:
    """Print README's block, and put it between its comments where these are; the exit status is 1 where they are not."""
    figures = readme.block(folder)
    print(figures)
    try:
        text = readme.updated(path.read_text(encoding="utf-8"), figures)
    except ValueError as error:
        print(f"{path} is left as it is: it {error}", file=sys.stderr)
        return 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
