"""Kernels in the cache folder: each is compiled once for all processes, under a key that covers all that its code depends on."""

from __future__ import annotations

import multiprocessing
import warnings
from pathlib import Path

import pytest

from tests.support.shipped import ADAM, AMSGRAD

nvrtc = pytest.importorskip("gpu_adam.engines.compile.nvrtc")


@pytest.fixture
def kernel():  # type: ignore[no-untyped-def]
    from gpu_adam.dtypes import FLOAT32
    from gpu_adam.errors import EngineUnavailable
    from gpu_adam.kernels.specialization import Specialization, UpdateKernel

    try:
        nvrtc.version()
    except EngineUnavailable as error:
        pytest.skip(str(error))
    nvrtc._compiled.cache_clear()
    yield UpdateKernel(Specialization("flat", ADAM, FLOAT32, FLOAT32, False), 256, 1)
    nvrtc._compiled.cache_clear()


def count_builds(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    built: list[list[str]] = []
    build = nvrtc.build

    def counting(files, expressions, architecture):  # type: ignore[no-untyped-def]
        built.append(files)
        return build(files, expressions, architecture)

    monkeypatch.setattr(nvrtc, "build", counting)
    return built


def test_a_kernel_is_compiled_once_for_all_processes(folder: Path, kernel, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    built = count_builds(monkeypatch)
    first = nvrtc.compile_kernel(kernel, 90)
    assert nvrtc.compile_kernel(kernel, 90) is first
    nvrtc._compiled.cache_clear()  # as a new process begins
    assert nvrtc.compile_kernel(kernel, 90) == first
    assert built == [["adam.cuh", "flat.cu"]]


def test_a_damaged_kernel_is_compiled_again(folder: Path, kernel) -> None:  # type: ignore[no-untyped-def]
    first = nvrtc.compile_kernel(kernel, 90)
    (entry,) = folder.iterdir()
    entry.write_bytes(entry.read_bytes()[:-100])
    nvrtc._compiled.cache_clear()
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert nvrtc.compile_kernel(kernel, 90).symbol == first.symbol
    nvrtc._compiled.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nvrtc.compile_kernel(kernel, 90)


def test_without_a_folder_kernels_are_kept_in_memory(unusable: Path, kernel) -> None:  # type: ignore[no-untyped-def]
    with pytest.warns(RuntimeWarning, match="kept in memory only"):
        first = nvrtc.compile_kernel(kernel, 90)
    assert first.binary.startswith(b"\x7fELF")
    assert nvrtc.compile_kernel(kernel, 90) is first


def test_the_key_covers_all_that_the_code_depends_on(kernel, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    from dataclasses import replace

    keys = {nvrtc.key(kernel, "sm_90"), nvrtc.key(kernel, "sm_80"), nvrtc.key(kernel, "compute_90")}
    geometries = ({"threads": 128}, {"vectors": 2}, {"hint": "plain"}, {"hint": "keep_param"}, {"persistent": True})
    keys |= {nvrtc.key(replace(kernel, **other), "sm_90") for other in geometries}
    s = kernel.specialization
    others = [replace(s, family="strided"), replace(s, rule=AMSGRAD)]
    keys |= {nvrtc.key(replace(kernel, specialization=other), "sm_90") for other in others}
    assert len(keys) == 10
    for name, text in nvrtc.sources().items():
        changed = {**nvrtc.sources(), name: text + "\n"}
        with monkeypatch.context() as patch:
            patch.setattr(nvrtc, "sources", lambda changed=changed: changed)
            keys.add(nvrtc.key(kernel, "sm_90"))
    assert len(keys) == 10 + len(nvrtc.sources())
    with monkeypatch.context() as patch:
        patch.setattr(nvrtc, "OPTIONS", nvrtc.OPTIONS[1:])
        keys.add(nvrtc.key(kernel, "sm_90"))
    with monkeypatch.context() as patch:
        patch.setattr(nvrtc, "version", lambda: (99, 0))
        keys.add(nvrtc.key(kernel, "sm_90"))
    assert len(keys) == 12 + len(nvrtc.sources())


def _compile_in(start, results) -> None:  # type: ignore[no-untyped-def]
    from gpu_adam.dtypes import FLOAT32
    from gpu_adam.engines.compile import nvrtc
    from gpu_adam.kernels.specialization import Specialization, UpdateKernel

    start.wait()
    kernel = UpdateKernel(Specialization("flat", ADAM, FLOAT32, FLOAT32, False), 256, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results.put(nvrtc.compile_kernel(kernel, 90))


def test_two_processes_fill_one_folder_at_once(folder: Path, kernel) -> None:  # type: ignore[no-untyped-def]
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_compile_in, args=(start, results)) for _ in range(2)]
    for process in processes:
        process.start()
    codes = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    # NVRTC's bytes differ a little from process to process; what was kept is one of the two, whole.
    assert codes[0].symbol == codes[1].symbol
    assert nvrtc.compile_kernel(kernel, 90) in codes
    assert len(list(folder.iterdir())) == 1
