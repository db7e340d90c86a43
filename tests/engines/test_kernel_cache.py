"""The cache folder: where it is, what a damaged, unwritable or shared one does, and what an entry's key covers."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_adam.engines.compile import disk as cache
from tests.engines.cache_programs import NOBODY, NURSERY, can_be_others, run
from tests.support.shipped import ADAM, AMSGRAD


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


@pytest.mark.parametrize("name", ["b", "a.", "", "ab"])
def test_an_entry_under_another_name_is_found_out(folder: Path, name: str) -> None:
    cache.write("a", b"machine code")
    (folder / "a").rename(folder / (name or "c"))
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert cache.read(name or "c") is None


@settings(deadline=None, max_examples=50)
@given(entry=st.binary(max_size=100), name=st.sampled_from(["a", "b-" + "0" * 32 + ".numba"]))
def test_whatever_lies_there_is_no_entry_and_no_error(
    tmp_path_factory: pytest.TempPathFactory, entry: bytes, name: str
) -> None:
    folder = tmp_path_factory.mktemp("kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.VARIABLE, str(folder))
        (folder / name).write_bytes(entry)
        with pytest.warns(RuntimeWarning, match="damaged"):
            assert cache.read(name) is None
        cache.write(name, entry)
        assert cache.read(name) == entry


@pytest.mark.parametrize(
    "error", [ValueError("no kernel"), EOFError(), KeyError("symbol"), MemoryError(), SystemError()]
)
def test_a_good_entry_that_cannot_be_decoded_is_replaced(folder: Path, error: Exception) -> None:
    def decode(content: bytes) -> bytes:
        if content == b"bad":
            raise error
        return content

    cache.write("a", b"bad")
    with pytest.warns(RuntimeWarning, match=f"{type(error).__name__}.*compiled again"):
        assert cache.read("a", decode) is None
    cache.write("a", b"good")
    assert cache.read("a", decode) == b"good"


def test_a_reader_makes_no_folder(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.read("a") is None
    assert not folder.exists()


READ_ONLY = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = [cache.read(name) for name in "abc"], len(caught)
    cache.write("d", b"more")
    cache.write("e", b"more")
    print(*found, len(caught), cache.fault() is not None, sorted(os.listdir(cache.location())))
"""


def test_a_folder_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    """Permissions do not stop the superuser, who therefore becomes somebody else."""
    user = NOBODY if can_be_others() else None
    if user is None and (os.name != "posix" or os.geteuid() == 0):
        pytest.skip("there is nobody here whom permissions stop")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "kernels"
        os.chmod(name, 0o1777)
        run("for name in 'abc': cache.write(name, name.encode())", folder, user)
        folder.chmod(0o555)
        printed, _ = run(READ_ONLY, folder, user)
        folder.chmod(0o755)
    assert printed == "[b'a', b'b', b'c'] 0 1 True ['a', 'b', 'c']"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.ESTALE])
@pytest.mark.parametrize("place", ["mkstemp", "replace"])
def test_what_cannot_be_written_is_one_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: int, place: str
) -> None:
    cache.write("a", b"machine code")

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr({"mkstemp": tempfile, "replace": os}[place], place, fail)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in "abc":
            cache.write(name, b"more")
        assert cache.read("a") == b"machine code"
    assert len(caught) == 1
    assert "kept in memory only" in str(caught[0].message)
    assert [entry.name for entry in folder.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_cannot_be_read_is_one_warning(folder: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    for name in "abc":
        cache.write(name, b"machine code")

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(error, os.strerror(error))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", fail)
            assert [cache.read(name) for name in "abc"] == [None] * 3
        assert cache.read("a") == b"machine code"
    assert len(caught) == 1
    assert "cannot read" in str(caught[0].message)


def test_a_folder_that_is_removed_meanwhile_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write("a", b"machine code")
    shutil.rmtree(folder)
    assert cache.read("a") is None
    cache.write("a", b"machine code")
    assert cache.read("a") == b"machine code"
    replace = os.replace

    def removed(source: str, to: str) -> None:
        shutil.rmtree(folder)
        replace(source, to)

    monkeypatch.setattr(os, "replace", removed)
    with pytest.warns(RuntimeWarning, match="kept in memory only"):
        cache.write("b", b"more")


def test_a_current_folder_that_is_gone_is_a_warning(tmp_path: Path) -> None:
    program = "os.rmdir(os.getcwd()); print(cache.read('a')); cache.write('a', b'x'); cache.write('b', b'x')"
    (tmp_path / "here").mkdir()
    printed, warned = run(f"os.chdir({str(tmp_path / 'here')!r}); {program}", Path("kernels"))
    assert printed == "None"
    assert warned.count("the current folder was removed") == 1


# ---- What killed writers leave

KEY = "0123456789abcdef" * 2


@pytest.mark.parametrize("hours", [-1000, -7, -5, 0, 5, 7, 1000])
@pytest.mark.parametrize("ahead", [0, 3, -100])
def test_what_a_killed_writer_left_is_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, hours: int, ahead: int
) -> None:
    """By the clock of the file system, whatever this machine's says."""
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + ahead * 3600)
    cache.write("a", b"machine code")
    left = [
        folder / name for name in (f".adam-{KEY}.numba.ab_d3f9h", ".gpu_adam.a.abcdefgh", ".gpu_adam.probe.12345678")
    ]
    others = [
        folder / name for name in (".config.original", ".a", "a.abcdefgh", ".nfs000000000000001", f"adam-{KEY}.numba")
    ]
    for path in (*left, *others):
        path.write_bytes(b"half")
        os.utime(path, (now - hours * 3600,) * 2)
    (folder / ".gpu_adam.folder.abcdefgh").mkdir()
    cache.write("b", b"more")
    assert [path.exists() for path in left] == [abs(hours) < 6] * 3
    assert all(path.exists() for path in others)
    assert cache.read("a") == b"machine code"


KILLS = """
from hashlib import sha256
def content(name, k):
    return k.to_bytes(4, "big") + sha256(f"{name} {k}".encode()).digest() * 50_000
def work(k):
    while True:
        for name in "abc":
            cache.write(name, content(name, k))
            time.sleep(0.001)
found = killed(work, 0.06, 50)
kept = {name: cache.read(name) for name in "abc"}
whole = all(entry is None or entry == content(name, int.from_bytes(entry[:4], "big")) for name, entry in kept.items())
left = [name for name in os.listdir(cache.location()) if name not in "abc"]
for name in left:
    path = os.path.join(cache.location(), name)
    os.utime(path, (time.time() - 7 * 3600,) * 2)
cache.write("d", b"last")
print(found, whole, len(left) > 0, sorted(set(os.listdir(cache.location())) - set("abc")))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_after_50_kills_every_entry_is_whole_or_absent(tmp_path: Path) -> None:
    assert run(NURSERY + KILLS, tmp_path / "kernels") == ("50 True True ['d']", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_writers_and_readers_at_once(tmp_path: Path) -> None:
    """A reader finds one writer's entry or another's, whole; a sweep meanwhile takes nothing from a writer."""
    program = """
contents = [bytes([k]) * 3_000_000 for k in range(3)]
cache.write("a", contents[0])
children = []
for content in contents:
    child = os.fork()
    if not child:
        warnings.simplefilter("error")
        for _ in range(30):
            cache.write("a", content)
            if cache.read("a") not in contents:
                os._exit(1)
        os._exit(0)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children], os.listdir(cache.location()))
"""
    assert run(program, tmp_path / "kernels") == ("[0, 0, 0] ['a']", "")


# ---- With kernels in it

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


@pytest.mark.skipif(os.name != "posix", reason="other systems have other permissions")
def test_a_folder_that_anybody_may_write_to_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "open"))
    with pytest.warns(RuntimeWarning, match="anybody may write"):
        assert cache.cache_dir() is None
