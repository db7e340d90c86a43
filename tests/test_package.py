"""The package: what the wheel holds, and that it imports from a wheel, from a bare checkout, and without its heavy dependencies."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What makes up the package and its metadata. Copied, so that a build leaves nothing in the checkout and finds nothing left there.
BUILT_FROM = ("gpu_adam", "kernels", "pyproject.toml", "setup.py", "README.md", "LICENSE")
# What must stay out of the wheel, though it lies beside it.
LEFT_OUT = ("tests", "benchmarks")

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists() or not (ROOT / "kernels").is_dir(), reason="needs a checkout"
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, without what was built in it."""
    copy = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", "*.nbi", "*.nbc")
    for name in (*BUILT_FROM, *LEFT_OUT):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
        elif (ROOT / name).exists() or name in BUILT_FROM:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as `pip install` builds it but for the isolation, which would need a network."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(checkout))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", str(folder), str(wheel))
    return folder


def pip(*arguments: str) -> None:
    run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments])


def run(command: Iterable[str], cwd: Path | None = None, path: Path | None = None) -> str:
    """What a command prints; where it fails, all that it said."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run([*command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.args}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def python(program: str, path: Path, cwd: Path) -> str:
    """What a program prints in a new interpreter that finds `path` before all else, an editable install included."""
    hide = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in getattr(f, '__module__', '')]\n"
    )
    return run([sys.executable, "-c", hide + program], cwd=cwd, path=path)


def shipped(folder: str, *suffixes: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in suffixes and "__pycache__" not in path.parts
    }


def version() -> str:
    """The version, read as a build reads it: without importing the package."""
    for node in ast.parse((ROOT / "gpu_adam/__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise AssertionError("gpu_adam/__init__.py assigns no __version__")


def test_the_wheel_holds_every_module(contents: set[str]) -> None:
    assert shipped("gpu_adam", ".py") | {f"gpu_adam/{name}" for name in shipped("kernels", ".py")} <= contents


def test_the_wheel_holds_the_cuda_sources(contents: set[str]) -> None:
    sources = shipped("kernels", ".cu", ".cuh")
    assert {Path(name).suffix for name in sources} == {".cu", ".cuh"}
    assert {f"gpu_adam/{name}" for name in sources} <= contents


def test_the_wheel_says_that_it_is_typed(contents: set[str]) -> None:
    assert "gpu_adam/py.typed" in contents


def test_the_wheel_holds_nothing_else(contents: set[str]) -> None:
    assert {name.split("/")[0] for name in contents} == {"gpu_adam", f"gpu_adam-{version()}.dist-info"}
    assert {Path(name).suffix for name in contents if name.startswith("gpu_adam/")} <= {".py", ".cu", ".cuh", ".typed"}


def test_the_wheel_is_for_every_platform(wheel: Path) -> None:
    assert wheel.name == f"gpu_adam-{version()}-py3-none-any.whl"


def test_the_wheel_has_its_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"gpu_adam-{version()}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        license_text = archive.read(f"{info}/licenses/LICENSE").decode()
    assert f"Version: {version()}\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "gpu-adam = gpu_adam.cli:main" in scripts
    assert "Apache License" in license_text


def test_nobody_gets_a_torch_that_was_not_chosen(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"gpu_adam-{version()}.dist-info/METADATA").decode()
    needs = [
        line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-Dist: ")
    ]
    base = {
        need.split(">")[0].split("<")[0].split("=")[0].replace("-", "_") for need in needs if "extra ==" not in need
    }
    assert base == {"ml_dtypes", "numba", "numpy"}
    torches = [need for need in needs if need.startswith("torch")]
    assert torches
    assert all(need.startswith("torch==") or 'extra == "torch"' in need for need in torches)


FIND_KERNELS = """
import json
from importlib.resources import files
import gpu_adam, gpu_adam.kernels
print(json.dumps({
    "package": gpu_adam.__file__,
    "kernels": gpu_adam.kernels.__file__,
    "version": gpu_adam.__version__,
    "sources": sorted(entry.name for entry in files("gpu_adam.kernels").iterdir() if entry.name.endswith((".cu", ".cuh"))),
}))
"""


@pytest.mark.parametrize(("where", "kernels"), [("installed", "gpu_adam/kernels"), ("checkout", "kernels")])
def test_the_kernels_are_found(where: str, kernels: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Outside the checkout from an installed wheel, and from a bare checkout that was never installed."""
    path: Path = request.getfixturevalue(where)
    found = json.loads(python(FIND_KERNELS, path=path, cwd=tmp_path))
    assert Path(found["package"]) == path / "gpu_adam/__init__.py"
    assert Path(found["kernels"]) == path / kernels / "__init__.py"
    assert found["version"] == version()
    assert found["sources"] == sorted(Path(name).name for name in shipped("kernels", ".cu", ".cuh"))


STEP = """
import numpy as np
from gpu_adam import GpuAdam
p = np.ones(1000, np.float32)
GpuAdam([p], lr=0.25, engine="cpu").step([np.ones(1000, np.float32)])
print(p[0], p[-1])
"""


@pytest.mark.parametrize("where", ["installed", "checkout"])
def test_it_steps(where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    first, last = python(STEP, path=request.getfixturevalue(where), cwd=tmp_path).split()
    # The first step of Adam is lr in the direction of the gradient's sign.
    assert first == last
    assert float(first) == pytest.approx(0.75, abs=1e-6)


@pytest.mark.parametrize("statement", ["import gpu_adam", "from gpu_adam import GpuAdam"])
def test_importing_brings_in_nothing_heavy(statement: str, tmp_path: Path) -> None:
    """Not even Numba, which alone takes longer than an import may."""
    heavy = ["cupy", "llvmlite", "matplotlib", "numba", "scipy", "sklearn", "torch", "tqdm"]
    program = f"{statement}\nimport sys\nprint(*(name for name in {heavy} if name in sys.modules))"
    assert python(program, path=ROOT, cwd=tmp_path).split() == []


def test_the_program_runs_as_a_module(installed: Path, tmp_path: Path) -> None:
    said = run([sys.executable, "-m", "gpu_adam", "--help"], cwd=tmp_path, path=installed)
    assert "doctor" in said
    assert "train" in said
