"""What the tests of the CUDA C++ share: the library of all kernels, and the engine above it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu_adam.engines import Engine, engine_named

from . import build
from .host_gpu import HostEngine
from .instances import OTHERS, SHIPPED


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpu_adam.engines.compile.disk import cache_dir

    # Kept between runs, under a name that follows the sources; where it cannot be kept, for this run.
    return (cache_dir() or tmp_path_factory.getbasetemp()) / "tests"


@pytest.fixture(scope="session")
def library(folder: Path) -> build.Library:
    return build.Library(build.build(SHIPPED + OTHERS, build.FAST, folder))


@pytest.fixture(scope="session")
def cuda(library: build.Library) -> HostEngine:
    return HostEngine(library)


@pytest.fixture(scope="session")
def cpu() -> Engine:
    return engine_named("cpu")
