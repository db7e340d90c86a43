"""Machines without a GPU, or with a driver that answers as it is told."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from gpu_adam.cuda import driver
from tests.support.machines import Machine, build_driver, packages


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver") / "lib")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, stub: Path) -> Machine:
    """No package for GPUs, and a driver."""
    return Machine(packages(tmp_path_factory.mktemp("bare") / "packages"), stub)


@pytest.fixture
def changed(tmp_path: Path, stub: Path) -> Machine:
    """The same, with a folder to install packages in."""
    return Machine(packages(tmp_path / "packages"), stub)


@pytest.fixture(scope="module")
def driverless() -> Machine:
    try:
        ctypes.CDLL(driver.LIBRARY)
    except OSError:
        return Machine(None, None)
    pytest.skip("NVIDIA's driver is installed")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, stub: Path) -> pytest.MonkeyPatch:
    """In this process too it is the stub that is asked, and no package for GPUs is there."""
    monkeypatch.setattr(driver, "LIBRARY", str(stub / "libcuda.so.1"))
    monkeypatch.setattr(driver, "_is_installed", lambda name: False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch
