"""``python -m benchmarks.ledger``: compile, count, predict, and write the page.

With ``--publish`` over the committed ledger. With ``--page`` the page alone, from the committed table and the results at hand; with
``--variants`` other launch geometries are compared instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gpu_adam.console import check_file, run
from gpu_adam.kernels.specialization import Family
from gpu_adam.plan.policy import Geometry

from .beside import measurements
from .entries import entry
from .machines import ARCHITECTURES
from .page import DATA, PAGE, page
from .subjects import Subject, adams, geometries, subjects

COMPARED = (80, 90, 100)

OUT = Path("runs", "ledger")
"""Of runs that nobody wants to commit, a folder that is not kept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the ledger; the exit status is 0."""
    return run("benchmarks.ledger", lambda: _main(arguments))


def _main(given: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__.partition(":")[2])
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--page", action="store_true", help="compile nothing: write the page from the table and the results at hand"
    )
    what.add_argument("--variants", action="store_true", help="compare threads, vectors, hints and a persistent grid")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, default=OUT, help="folder for the page and the table (default: runs/ledger)")
    where.add_argument(
        "--publish", dest="out", action="store_const", const=PAGE.parent, help="write over the committed ledger"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    arguments = parser.parse_args(given)
    if arguments.jobs < 1:
        parser.error(f"--jobs {arguments.jobs}: at least 1")
    if arguments.variants:
        variants(arguments.jobs)
        return 0
    paths = arguments.out / PAGE.name, DATA if arguments.page else arguments.out / DATA.name
    try:  # now, and not after minutes of compiling
        for path in paths[:1] if arguments.page else paths:
            check_file(path, "--out")
    except OSError as error:
        parser.error(str(error))
    if not arguments.page:
        write_table(arguments.jobs, paths[1])
    write_page(*paths)
    return 0


def write_table(jobs: int, path: Path) -> None:
    """Write ``ledger.json``."""
    wanted = [(subject, architecture) for architecture in ARCHITECTURES for subject in subjects()]
    rows = list(_mapped(entry, wanted, jobs))
    order = {subject.name: place for place, subject in enumerate(subjects())}
    rows.sort(key=lambda row: (order[row["kernel"]], row["architecture"]))
    (compiler,) = {row.pop("compiler") for row in rows}
    # A row a line: a change shows which kernels it touches.
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f'{{"compiler": "{compiler}", "rows": [\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{len(rows)} rows in {path}")


def write_page(path: Path, table: Path) -> None:
    """Write ``LEDGER.md`` from ``ledger.json``."""
    ledger = json.loads(table.read_text(encoding="utf-8"))
    path.write_text(page(ledger, measurements()), encoding="utf-8")
    print(path)


def variants(jobs: int) -> None:
    """Print what becomes of Adam's kernels at other launch geometries."""
    families: tuple[Family, ...] = ("flat", "multi_tensor")
    wanted = [
        (subject, architecture, geometry)
        for architecture in COMPARED
        for family in families
        for geometry in geometries()
        for subject in adams(family, geometry)
    ]
    rows = list(_mapped(_variant, wanted, jobs))
    rows.sort(key=lambda row: (row["kernel"], row["architecture"]))
    head = f"{'kernel':44} {'sm':>4} {'threads':>7} {'vectors':>7} {'hint':10} {'grid':10} {'registers':>9} {'stack':>5} {'a turn':>6} "
    head += f"{'beside':>6} {'blocks':>6} {'in flight':>9} {'x wanted':>8} {'share':>6} {'of copy':>7}  binds, then"
    print(head)
    for row in rows:
        name, one = next(iter(row["predictions"].items()))
        print(
            f"{row['kernel']:44} {row['architecture']:4} {row['threads']:7} {row['vectors']:7} {row['hint']:10} {row['grid']:10} "
            f"{row['registers']:9} {row['stack']:5} {sum(row['turn'].values()):6} {sum(row['setup'].values()):6} "
            f"{row['blocks']:6} {row['in_flight'] / 1024:5.0f} KiB {one['in_flight_to_wanted']:8} "
            f"{one['share']:6.0%} {one['of_copy']:7.0%}  {one['binds']}, {one['next'][0]} {one['next'][1]:.0%} on {name}"
        )


def _variant(subject: Subject, architecture: int, geometry: Geometry) -> dict[str, Any]:
    grid = "persistent" if geometry.persistent else "one-shot"
    return {**entry(subject, architecture), "vectors": geometry.vectors, "hint": geometry.hint, "grid": grid}


def _mapped(function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], jobs: int) -> Iterator[Any]:
    tasks = list(tasks)
    with ProcessPoolExecutor(jobs) as pool:
        futures = [pool.submit(function, *task) for task in tasks]
        for future in tqdm(futures, unit="kernel", disable=None):
            yield future.result()


if __name__ == "__main__":
    sys.exit(main())
