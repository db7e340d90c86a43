"""Machines as people have them, each a process of its own: packages that are there or not, and a driver that answers as it is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_GPU = ("numpy", "numpy.libs", "numba", "llvmlite", "llvmlite.libs", "ml_dtypes")
"""What is needed on a CPU, by the names of folders."""

_ASK = """
import json, sys
{before}
import numpy as np
from types import SimpleNamespace
from gpu_adam import GpuAdam

class OnGpu:
    __cuda_array_interface__ = dict(shape=(3,), typestr="<f4", data=(1 << 20, False), version=3)

class OnKnownGpu(OnGpu):
    device = SimpleNamespace(id=0)

def step():
    array = np.ones(3, np.float32)
    GpuAdam([array]).step([array.copy()])
    assert array[0] < 1

def said(make):
    try:
        make()
    except Exception as error:
        return type(error).__name__, str(error)

print(json.dumps(dict(
    auto=said(step),
    cupy=said(lambda: GpuAdam([np.ones(3)], engine="cupy")),
    numba=said(lambda: GpuAdam([np.ones(3)], engine="numba")),
    array=said(lambda: GpuAdam([OnGpu()])),
    known=said(lambda: GpuAdam([OnKnownGpu()])),
)))
"""


@dataclass(frozen=True)
class Said:
    """How a program ended, and what was to be read."""

    status: int
    out: str
    error: str


@dataclass(frozen=True)
class Machine:
    """Where programs run.

    Attributes:
        packages: A folder with all packages that are installed; ``None`` for those of the tests themselves.
        driver: A folder with NVIDIA's driver; ``None`` for that of this machine, if it has one.
    """

    packages: Path | None
    driver: Path | None

    def run(self, *arguments: str, **environment: object) -> Said:
        """Run Python."""
        told = {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NUMBA_ENABLE_CUDASIM"} - environment.keys()
        variables = {name: value for name, value in os.environ.items() if name not in told}
        variables |= {name: str(value) for name, value in environment.items()}
        path = [str(ROOT), *([str(self.packages)] if self.packages else [])]
        variables["PYTHONPATH"] = os.pathsep.join([*path, variables.get("PYTHONPATH", "")])
        if self.driver:
            variables["LD_LIBRARY_PATH"] = str(self.driver)
        # -S leaves out the packages of the tests.
        command = [sys.executable, *(["-S"] if self.packages else []), *arguments]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
        return Said(done.returncode, done.stdout, done.stderr)

    def ask(self, before: str = "", **environment: object) -> dict[str, tuple[str, str] | None]:
        """What each way to an optimizer says, ``None`` where it works: the error's class and message."""
        done = self.run("-c", _ASK.format(before=before), **environment)
        assert done.status == 0, done.error
        found = json.loads(done.out)
        return {name: None if error is None else tuple(error) for name, error in found.items()}

    def refusal(self, name: str, before: str = "", **environment: object) -> str:
        """What an engine that is unavailable says."""
        error = self.ask(before, **environment)[name]
        assert error is not None, f"{name} works"
        kind, message = error
        assert kind == "EngineUnavailable", message
        assert "\n" not in message
        return message


def packages(folder: Path, names: Sequence[str] = WITHOUT_GPU) -> Path:
    """A folder like site-packages, with these packages of the tests' own and no others."""
    folder.mkdir()
    for name in names:
        spec = find_spec(name.partition(".")[0])
        assert spec is not None
        assert spec.submodule_search_locations is not None
        home = Path(spec.submodule_search_locations[0]).parent
        for entry in (home / name, *home.glob(f"{name}-*.dist-info")):
            if entry.exists():
                (folder / entry.name).symlink_to(entry)
    return folder


def fake_package(folder: Path, name: str, version: str, **modules: str) -> None:
    """Install a package with these modules."""
    entry = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


def build_driver(folder: Path) -> Path:
    """A folder with a driver that answers as the variables ``STUB_*`` say."""
    if shutil.which("g++") is None or sys.platform != "linux":
        pytest.skip("needs Linux and g++")
    source = Path(__file__).with_name("stub_driver.cpp")
    folder.mkdir()
    subprocess.run(["g++", "-shared", "-fPIC", str(source), "-o", str(folder / "libcuda.so.1")], check=True)
    return folder


def tell(monkeypatch: pytest.MonkeyPatch, environment: dict[str, object]) -> None:
    """Set what the driver that is built answers."""
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
