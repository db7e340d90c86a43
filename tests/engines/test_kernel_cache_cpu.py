"""The CPU engine's kernels on disk: a later process runs the code that was compiled, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FunctionType

import pytest
from numba.extending import is_jitted

from gpu_adam.dtypes import FLOAT32, FLOAT64, FORMATS
from gpu_adam.kernels.cpu import families as cpu
from gpu_adam.kernels.cpu import measure as cpu_measure
from gpu_adam.kernels.cpu import prologue as cpu_prologue
from gpu_adam.kernels.cpu import sparse as cpu_rows
from gpu_adam.kernels.specialization import Specialization
from tests.engines.cache_programs import NURSERY, run
from tests.support.shipped import RULES, formats_of

STEP = """
import sys
import numpy as np
from gpu_adam import GpuAdam
for kind in map(int, sys.argv[1]):
    p = np.ones(100, np.float32)
    opt = GpuAdam([p], amsgrad=kind % 2 == 1, max_grad_norm=0.5 if kind > 1 else None)
    for scale in (2, 1):
        opt.step([np.full(100, scale, np.float32)])
    arrays = opt.state_dict()["state"][0]
    print(kind, p[0].tobytes().hex(), *(arrays[name][7].tobytes().hex() for name in arrays if name != "step"))
"""


def steps(folder: Path, which: str, **more: str) -> tuple[list[str], str]:
    """What a new process prints that steps Adam for every 0 and AMSGrad for every 1, clipped for 2 and 3, and what it warns of."""
    environment = {**os.environ, "GPU_ADAM_CACHE_DIR": str(folder), **more}
    done = subprocess.run(
        [sys.executable, "-c", STEP, which],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines(), done.stderr


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What one process prints that compiles both kernels itself."""
    return steps(tmp_path_factory.mktemp("cache"), "01")[0]


def test_kernels_that_two_processes_compiled_do_not_mix_in_a_third(tmp_path, together):
    assert steps(tmp_path, "0")[0] + steps(tmp_path, "1")[0] == together
    assert steps(tmp_path, "01")[0] == together
    assert steps(tmp_path, "10")[0] == together[::-1]


def test_under_one_name_there_is_one_code():
    """What two kernels have in common is linked into both under one symbol, made out of its name."""
    codes = {}

    def code(function):
        """A function's code and what it is closed over; all that it calls is looked at too."""
        function = getattr(function, "py_func", function)
        if not isinstance(function, FunctionType):
            return repr(function)
        names = function.__code__.co_names
        called = [function.__globals__[name] for name in names if name in function.__globals__]
        inside = (*(cell.cell_contents for cell in function.__closure__ or ()), *filter(is_jitted, called))
        found = (function.__code__, *map(code, inside))
        codes.setdefault((function.__module__, function.__qualname__), set()).add(found)
        return found

    kinds = [
        Specialization(family, rule, *formats, average)
        for rule in RULES.values()
        for family in ("flat", "multi_tensor", "strided", "rows")
        for formats in formats_of(rule, family)
        for average in (False, True)
    ]
    kernels = [
        *map(cpu.make_kernel, kinds),
        *map(cpu_prologue.make_finish, RULES.values()),
        cpu_measure.make_measure(),
    ]
    kernels += [cpu_rows.make_coalesce(values, working) for values in FORMATS for working in (FLOAT32, FLOAT64)]
    for kernel in kernels:
        code(kernel)
    assert {name for name, found in codes.items() if len(found) > 1} == set()
    assert len(codes) > len(kernels)


def test_the_kernels_of_the_norm_and_of_the_coefficients_are_kept_and_shared(tmp_path):
    folder, other = tmp_path / "one", tmp_path / "other"
    expected = steps(other, "23")[0]
    assert steps(folder, "3")[0] == expected[1:]
    kept = {entry.name for entry in folder.glob("*.numba")}
    assert sorted(name.partition("-")[0] for name in kept) == [
        "adam_amsgrad_multi_tensor_float32_float32",
        "adam_finish",
        "measure",
    ]
    times = {entry: entry.stat().st_mtime_ns for entry in folder.glob("*.numba")}
    assert steps(folder, "23")[0] == expected
    assert {entry.name for entry in folder.glob("*.numba")} > kept
    assert all(entry.stat().st_mtime_ns == time for entry, time in times.items())


def test_a_damaged_entry_is_a_warning_and_a_recompilation(tmp_path, together):
    steps(tmp_path, "0")
    (entry,) = tmp_path.glob("*.numba")
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    entry.write_bytes(content)
    printed, warned = steps(tmp_path, "0")
    assert printed == together[:1]
    assert "damaged" in warned
    assert steps(tmp_path, "0") == (together[:1], "")


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path, together):
    (tmp_path / "file").write_text("in the way")
    printed, warned = steps(tmp_path / "file" / "cache", "0")
    assert printed == together[:1]
    assert "RuntimeWarning" in warned


def test_code_that_was_compiled_otherwise_is_left_to_nobody(tmp_path, together):
    """Slow code above all."""
    assert steps(tmp_path, "0", NUMBA_OPT="0") == (together[:1], "")
    (slow,) = tmp_path.glob("*.numba")
    content = slow.read_bytes()
    assert steps(tmp_path, "0") == (together[:1], "")
    (usual,) = set(tmp_path.glob("*.numba")) - {slow}
    assert slow.read_bytes() == content
    assert len(usual.read_bytes()) != len(content)


def test_two_processes_compile_at_once(tmp_path, together):
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda _: steps(tmp_path, "0"), range(2))) == [(together[:1], "")] * 2
    assert [entry.suffix for entry in tmp_path.iterdir()] == [".numba"]
    assert steps(tmp_path, "0") == (together[:1], "")


SMALL = """
import numba
from gpu_adam.engines.compile.numba import keep_on_disk
def work(k):
    for number in range(30 * k, 30 * k + 30):  # nobody else's, so that each is compiled
        kernel = numba.njit(eval(f"lambda x: x + {number}"))
        keep_on_disk(kernel, f"kernel{number}")
        kernel.compile((numba.int64,))
        if kernel(1) != 1 + number:
            raise AssertionError(number)
kernel = numba.njit(lambda x: x)
kernel.compile((numba.int64,))  # what the first compilation imports
"""

LARGE = """
import numpy as np
from gpu_adam import GpuAdam, GpuNAdam, GpuSgd
from gpu_adam.kernels import cpu
kinds = [(kind, format) for kind in (GpuAdam, GpuNAdam, GpuSgd) for format in (np.float32, np.float64, np.float16)]
def work(k):
    for kind, format in kinds[k % 9 :] + kinds[: k % 9]:
        kind([np.ones(9, format)]).step([np.ones(9, format)])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
@pytest.mark.parametrize(
    ("program", "seconds", "kills"),
    [(SMALL, 0.5, 10), pytest.param(SMALL, 0.5, 50, marks=pytest.mark.long), pytest.param(LARGE, 2, 50, marks=pytest.mark.long)],
    ids=["small", "small-50", "large-50"],
)  # fmt: skip
def test_killed_while_they_compile(tmp_path, together, program, seconds, kills):
    """Every entry is whole or absent, the last process gets the right bits, and in time nothing of the others remains."""
    folder = tmp_path / "kernels"
    killed, warned = run(NURSERY + program + f"print(killed(work, {seconds}, {kills}))", folder)
    # How many are still at it when they are killed depends on the machine.
    assert int(killed) > kills // 5
    assert warned == ""
    folder.mkdir(mode=0o700, exist_ok=True)
    for entry in folder.iterdir():
        assert entry.name.endswith(".numba") or entry.name.startswith(".gpu_adam.")
        os.utime(entry, (entry.stat().st_mtime - 7 * 3600,) * 2)
    whole, warned = run(program + "work(0); cache.write('last', b''); print(*os.listdir(cache.location()))", folder)
    assert warned == ""
    assert all(name.endswith((".numba", "last")) for name in whole.split())
    if program is LARGE:
        assert steps(folder, "01") == (together, "")
