"""The cache folder: where it is, and what a damaged, unwritable or shared one does."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_adam.engines.compile import disk as cache
from tests.engines.cache_programs import NOBODY, can_be_others, run


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


@pytest.mark.skipif(os.name != "posix", reason="other systems have other permissions")
def test_a_folder_that_anybody_may_write_to_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "open"))
    with pytest.warns(RuntimeWarning, match="anybody may write"):
        assert cache.cache_dir() is None
