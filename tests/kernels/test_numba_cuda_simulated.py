"""The numba engine in Numba's CUDA simulator, for its indexing: which elements are read, which are written, and nothing beside them.

The simulator has neither addresses nor intrinsics, so the kernels get a target in plain Python, and CUDA is a GPU made of host memory
(`cuda_cpp.host_gpu`). All between a task and a kernel is the engine's own: the launches, the tables, their copies, the arguments as the
driver takes them. Since the target's fma is the C library's, results are compared bit by bit with the rule itself.

The simulator is chosen when Numba is imported, so the cases (`numba_simulator`) run in processes of their own: `simulated_*` are their
test functions.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

CASES = Path(__file__).parent / "numba_simulator"


@pytest.mark.parametrize(
    ("file", "cases"),
    [
        ("updates.py", "multi_tensor"),
        ("updates.py", "flat"),
        ("updates.py", "strided"),
        ("updates.py", "program"),
        ("rows.py", "rows"),
        ("rows.py", "coalesce"),
        ("prologues.py", "measure"),
        ("prologues.py", "decide"),
        ("own.py", "own"),
    ],
)
def test_in_the_simulator(file: str, cases: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "python_functions=simulated_*"]
    # Lanes out of bounds compute too, with numbers whose roots and quotients need not exist.
    command += ["-W", "ignore::RuntimeWarning"]
    child = subprocess.run(
        [*command, "-k", f"simulated_{cases}", CASES / file],
        env={**environment, "NUMBA_ENABLE_CUDASIM": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
