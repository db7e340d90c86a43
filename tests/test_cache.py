"""The cache folder: where it is, what a damaged, unwritable or shared one does, and what an entry's key covers."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from pathlib import Path

import pytest
from shipped import ADAM, AMSGRAD

from gpu_adam import cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kernels"))
    return tmp_path / "kernels"


@pytest.fixture
def unusable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # A file where the folder should be: unlike permissions, it stops the superuser too.
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "kernels"))
    return tmp_path / "file" / "kernels"


def test_an_entry_comes_back(folder: Path) -> None:
    assert cache.read("a") is None
    cache.write("a", b"machine code")
    assert cache.read("a") == b"machine code"
    assert [entry.name for entry in folder.iterdir()] == ["a"]


def test_an_entry_is_replaced(folder: Path) -> None:
    cache.write("a", b"old")
    cache.write("a", b"new")
    assert cache.read("a") == b"new"


@pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="elsewhere than on Linux the user's cache folder is another"
)
def test_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / "gpu_adam"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / ".cache" / "gpu_adam"


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:], lambda b: b + b"x"]
)
def test_a_damaged_entry_is_a_warning_and_no_entry(folder: Path, damage) -> None:  # type: ignore[no-untyped-def]
    cache.write("a", b"machine code" * 10)
    (folder / "a").write_bytes(damage((folder / "a").read_bytes()))
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert cache.read("a") is None
    cache.write("a", b"again")
    assert cache.read("a") == b"again"


def test_an_unusable_folder_is_one_warning(unusable: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert cache.cache_dir() is None
        assert cache.cache_dir() is None
        cache.write("a", b"x")
        assert cache.read("a") is None
    (warning,) = caught
    assert warning.category is RuntimeWarning
    assert str(unusable) in str(warning.message)
    assert cache.VARIABLE in str(warning.message)


def test_an_entry_that_cannot_be_written_is_a_warning(folder: Path) -> None:
    assert cache.cache_dir() == folder
    (folder / "a").mkdir()
    with pytest.warns(RuntimeWarning, match="cannot write"):
        cache.write("a", b"x")
    assert [entry.name for entry in folder.iterdir()] == ["a"], "the temporary file is gone"


# ---- With kernels in it

nvrtc = pytest.importorskip("gpu_adam.engines.nvrtc")


@pytest.fixture
def kernel():  # type: ignore[no-untyped-def]
    from gpu_adam.engines import EngineUnavailable
    from gpu_adam.engines.gpu_kernels import UpdateKernel
    from gpu_adam.formats import FLOAT32
    from gpu_adam.plan import Specialization

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
    from gpu_adam.engines import nvrtc
    from gpu_adam.engines.gpu_kernels import UpdateKernel
    from gpu_adam.formats import FLOAT32
    from gpu_adam.plan import Specialization

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


@pytest.mark.skipif(os.name != "posix", reason="other systems have other permissions")
def test_a_folder_that_anybody_may_write_to_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "open"))
    with pytest.warns(RuntimeWarning, match="anybody may write"):
        assert cache.cache_dir() is None
