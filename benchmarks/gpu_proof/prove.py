"""The parts one after the other, each within its time, and what they find, written down after each."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic
from typing import Any

from .. import plots
from ..goals import Goal, gpu_goals
from ..machine import digest
from ..markdown import print_into
from ..record import LeftOut, read, write
from ..report import goals_table
from ..runner import run_part
from . import readme
from .page import page
from .parts import LEAST, PARTS, Part, limits

MACHINE_SECONDS = 60.0
"""For telling what it runs on: on a machine that was just started everything is read from the disk for the first time."""

ENDED = ("done", "left out")
"""What a part that need not be run again is."""

ENVIRONMENT = {
    # JAX takes three quarters of the memory otherwise, before anybody else has any.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


def prove(
    parts: Sequence[Part], seconds: float, folder: Path, given: dict[str, Any], *, dry_run: bool, resume: bool = False
) -> int:
    """Run the parts.

    Returns:
        The exit status: 0 if each part is done or left out for what is missing, and every goal of correctness is reached.
    """
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
            found = run_part(part.module, arguments, limit, dry_run=dry_run, added=ENVIRONMENT, keep=keep)
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
        return [plot.name for plot in plots.save_gpu(results, folder, name)]
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
        found = gpu_goals(results)
        results["goals"] = [goal.as_dict() for goal in found]
        write(path, results)
        path.with_suffix(".md").write_text(page(results, images), encoding="utf-8")
    except Exception:
        traceback.print_exc()
    return found


def update_readme(folder: Path, path: Path) -> int:
    """Print README's block, and put it between its comments where these are; the exit status is 1 where they are not."""
    return print_into(path, readme.BEGIN, readme.END, readme.block(folder))
