"""The package: what the distributions hold, to the byte, and that it runs from a wheel, from a bare checkout, and without heavy imports."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.support.reference import Options, Reference

ROOT = Path(__file__).resolve().parents[2]

# What no build is made from: what lies in a checkout beside it.
LEFT_OUT = shutil.ignore_patterns(
    ".git",
    ".venv",
    "build",
    "dist",
    "runs",
    "*.egg-info",
    ".*_cache",
    ".hypothesis",
    "__pycache__",
    "*.py[cod]",
    "*.nb[ic]",
)

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists() or not (ROOT / "kernels").is_dir(), reason="needs a checkout"
)

BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, f'build_{sys.argv[1]}')(sys.argv[2])"
EPOCH = 1_750_000_000


def built(what: str, source: Path, folder: Path) -> Path:
    """A distribution, built as pip and ``build`` do it but for the isolation, which would need a network."""
    run([sys.executable, "-c", BUILD, what, str(folder)], cwd=source, SOURCE_DATE_EPOCH=str(EPOCH))
    (distribution,) = folder.iterdir()
    return distribution


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that a build leaves nothing in it and finds nothing left there."""
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("checkout") / "here", ignore=LEFT_OUT))


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", checkout, tmp_path_factory.mktemp("sdist"))


def unpacked(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / sdist.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From the source distribution, as it is released."""
    return built("wheel", unpacked(sdist, tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


DEPENDENCIES = {"llvmlite", "ml_dtypes", "numba", "numpy"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds this one's copies of what the package depends on, and no package."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=sys.platform != "win32")
    place = {"base": str(folder), "platbase": str(folder)}
    for scheme in ("purelib", "platlib"):
        for found in Path(sysconfig.get_path(scheme)).iterdir():
            link = Path(sysconfig.get_path(scheme, vars=place)) / found.name
            if re.split("[-.]", found.name)[0] in DEPENDENCIES and not link.exists():
                link.symlink_to(found, target_is_directory=found.is_dir())
    return Path(sysconfig.get_path("scripts", vars=place)) / "python"


@pytest.fixture(scope="module")
def installed(bare: Path, wheel: Path) -> Path:
    """The wheel's folder in this environment. pip looks whether all that the wheel needs is there."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(bare)]
    run([*pip, "install", "--no-index", "--no-compile", str(wheel)])
    return Path(run([str(bare), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())


def run(command: Iterable[str], cwd: Path | None = None, **environment: str) -> str:
    """What a command prints; where it fails, all that it said."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SOURCE_DATE_EPOCH")}
    done = subprocess.run([*command], cwd=cwd, env=inherited | environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.args}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


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


def test_no_link_leads_nowhere_from_pypis_page(wheel: Path) -> None:
    """It shows README without the files beside it."""
    with zipfile.ZipFile(wheel) as archive:
        page = archive.read(f"gpu_adam-{version()}.dist-info/METADATA").decode().partition("\n\n")[2]
    assert page.startswith("# gpu_adam")
    targets = [one or other for one, other in re.findall(r"\]\(([^)\s]+)|\bsrc=\"([^\"]+)", page)]
    assert [target for target in targets if not target.startswith(("https:", "#"))] == []


def listed(sdist: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(sdist) as archive:
        return archive.getmembers()


def test_the_source_distribution_is_the_repository(sdist: Path) -> None:
    """With what setuptools adds: all that the tests, the benchmarks and the documentation need, and nothing else."""
    git = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git repository, whose list is compared")
    files = {member.name.partition("/")[2] for member in listed(sdist) if not member.isdir()}
    added = {name for name in files if name.startswith("gpu_adam.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert files - added == {
        name for name in run(git).splitlines() if (ROOT / name).exists() and not is_of_the_examples(name)
    }


def is_of_the_examples(name: str) -> bool:
    """Whether a file is of the examples' programs or their tests, which are for a checkout; the documentation shows their page."""
    documented = name == "examples/paper/RESULTS.md" or name.endswith(".png")
    return name.startswith(("examples/", "tests/examples/")) and not documented


def test_two_builds_have_the_same_bytes(checkout: Path, sdist: Path, wheel: Path, tmp_path: Path) -> None:
    """In another folder, of files of another time that only their owner can read."""
    source = shutil.copytree(checkout, tmp_path / "elsewhere")
    for path in source.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
        os.utime(path, (1.6e9, 1.6e9))
    again = built("sdist", source, tmp_path / "sdist")
    assert again.read_bytes() == sdist.read_bytes()
    assert {(entry.mtime, entry.uid, entry.gid, entry.uname) for entry in listed(again)} == {(EPOCH, 0, 0, "")}
    (tmp_path / "source").mkdir()
    assert built("wheel", unpacked(again, tmp_path / "source"), tmp_path / "wheel").read_bytes() == wheel.read_bytes()


def test_the_changelog_has_a_section_for_this_version_and_what_comes() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\](?: - \d{4}-\d\d-\d\d)?", heading) for heading in headings[1:]]
    assert all(released), headings
    versions = [tuple(map(int, heading.groups())) for heading in released if heading]
    assert versions == sorted({*versions}, reverse=True)
    number, between, _ = version().partition(".dev")  # between two releases it is that of the next
    this = tuple(map(int, number.split(".")))
    assert this > versions[0] if between else this == versions[0]


FIND_KERNELS = """
import json
from importlib.resources import files
import gpu_adam, gpu_adam.kernels
print(json.dumps({
    "package": gpu_adam.__file__,
    "kernels": gpu_adam.kernels.__file__,
    "version": gpu_adam.__version__,
    "sources": sorted(
        entry.name
        for folder in ("cuda", "rules")
        for entry in (files("gpu_adam.kernels") / folder).iterdir()
        if entry.name.endswith((".cu", ".cuh"))
    ),
}))
"""


@pytest.fixture(params=["checkout", "installed"])
def home(request: pytest.FixtureRequest) -> tuple[Path, Mapping[str, str]]:
    """Where the package is to be found, and the environment variables that it takes: a checkout that was never installed, or the wheel."""
    folder: Path = request.getfixturevalue(request.param)
    return folder, {"PYTHONPATH": str(folder)} if request.param == "checkout" else {}


def test_the_kernels_are_found(home: tuple[Path, Mapping[str, str]], bare: Path, tmp_path: Path) -> None:
    folder, environment = home
    found = json.loads(run([str(bare), "-c", FIND_KERNELS], cwd=tmp_path, **environment))
    assert Path(found["package"]) == folder / "gpu_adam/__init__.py"
    assert Path(found["kernels"]) == folder / ("kernels" if environment else "gpu_adam/kernels") / "__init__.py"
    assert found["version"] == version()
    assert found["sources"] == sorted(Path(name).name for name in shipped("kernels", ".cu", ".cuh"))


STEP = """
import numpy as np
from gpu_adam import GpuAdam
p = np.linspace(-1, 1, 1001, dtype=np.float32)
opt = GpuAdam([p], lr=0.25, weight_decay=0.125)
for _ in range(2):
    opt.step([np.cos(np.arange(1001)).astype(np.float32)])
print(p.tobytes().hex())
"""


def test_it_steps_with_the_promised_bits(home: tuple[Path, Mapping[str, str]], bare: Path, tmp_path: Path) -> None:
    reference = Reference(np.linspace(-1, 1, 1001, dtype=np.float32))
    for _ in range(2):
        reference.step(np.cos(np.arange(1001)).astype(np.float32), Options(lr=0.25, weight_decay=0.125))
    assert run([str(bare), "-c", STEP], cwd=tmp_path, **home[1]).strip() == reference.p.tobytes().hex()


@pytest.mark.parametrize("statement", ["import gpu_adam", "from gpu_adam import GpuAdam"])
def test_importing_brings_in_nothing_heavy(statement: str, tmp_path: Path) -> None:
    """Not even Numba, which alone takes longer than an import may."""
    heavy = ["cupy", "llvmlite", "matplotlib", "numba", "scipy", "sklearn", "torch", "tqdm"]
    program = f"{statement}\nimport sys\nprint(*(name for name in {heavy} if name in sys.modules))"
    assert run([sys.executable, "-c", program], cwd=tmp_path, PYTHONPATH=str(ROOT)).split() == []


def test_the_program_is_installed(installed: Path, bare: Path, tmp_path: Path) -> None:
    program = str(bare.parent / "gpu-adam")
    assert run([program, "--version"], cwd=tmp_path) == f"gpu_adam {version()}\n"
    found = run([program, "doctor"], cwd=tmp_path)
    assert f"gpu_adam {version()}" in found
    assert "engine 'cpu' works" in found


def test_the_program_runs_as_a_module(installed: Path, bare: Path, tmp_path: Path) -> None:
    said = run([str(bare), "-m", "gpu_adam", "--help"], cwd=tmp_path)
    assert "doctor" in said
    assert "train" in said
