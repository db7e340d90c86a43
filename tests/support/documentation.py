"""The pages of the documentation, and the Python in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))

GPU = "# needs a GPU\n"
"""The first line of a block that cannot run elsewhere."""

RANKS = "# torchrun --nproc-per-node 2 train.py\n"
"""The first line of a block of two processes: those of a page are one program."""

_PACKAGE = re.compile(r"# needs (\w+)\n")
"""The first line of a block that is a program by itself, for which a package must be there that the tests do without."""

TIMEOUT = 300.0
"""Seconds that a program may take, most of them for its imports."""


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[tuple[str, str]]:
    """The languages and texts of a page's Python blocks: programs, and what an interactive interpreter shows."""
    return re.findall(r"^```(python|pycon)\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)


def plain_blocks(page: str) -> list[tuple[str, str]]:
    """Those that run one after the other, on a CPU."""
    return [(language, code) for language, code in blocks(page) if not code.startswith(("# needs ", RANKS))]


def gpu_blocks(page: str) -> list[str]:
    return [code for _, code in blocks(page) if code.startswith(GPU)]


def programs(page: str) -> list[tuple[str, str]]:
    """Those that are programs by themselves, each with the package that it is about."""
    found = [(_PACKAGE.match(code), code) for _, code in blocks(page)]
    return [(match[1], code) for match, code in found if match]


def program_of_ranks(page: str) -> str:
    """The program for two processes that a page's blocks are together; empty where it has none."""
    return "\n".join(code for _, code in blocks(page) if code.startswith(RANKS))


def run(code: str, folder: Path, *launcher: str) -> float:
    """Run a program as a user does, and read the loss that it prints at its end.

    Args:
        code: The program.
        folder: Where it is written to, and runs.
        launcher: The arguments of Python that come before the program's name.
    """
    (folder / "train.py").write_text(code, encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, *launcher, "train.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return float(done.stdout.split()[-1])
