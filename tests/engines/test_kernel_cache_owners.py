"""The kernel cache and other users: what they could have written is not run, and what is written here they cannot change.

Attacks by another user need the superuser's rights to play them; the rest of the tests needs none.
"""

from __future__ import annotations

import os
import pickle
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpu_adam import doctor
from gpu_adam.engines.compile import disk as cache
from gpu_adam.engines.compile import ownership
from tests.engines.cache_programs import NOBODY, STRANGER, can_be_others, run

grp, pwd = pytest.importorskip("grp"), pytest.importorskip("pwd")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="other systems have other permissions")
as_root = pytest.mark.skipif(not can_be_others(), reason="only the superuser can become others")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users reach; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def filled(folder: Path) -> Path:
    cache.write("a", b"machine code")
    return folder / "a"


def refused(*said: str) -> None:
    """Nothing is read, nothing is kept, and it is said once why."""
    before = sorted(Path(cache.location()).rglob("*"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert cache.read("a") is None
        cache.write("b", b"more")
        assert cache.read("b") is None
        assert cache.cache_dir() is None
    assert sorted(Path(cache.location()).rglob("*")) == before
    (warning,) = caught
    assert warning.category is RuntimeWarning
    for text in (*said, "kept in memory only", cache.VARIABLE):
        assert text in str(warning.message)


# ---- Who may write


@pytest.mark.parametrize("bits", range(0o100))
def test_a_folder_that_others_may_write_to_is_not_used(folder: Path, bits: int) -> None:
    filled(folder)
    folder.chmod(0o700 | bits)
    if bits & 0o022:
        refused(f"mode {0o700 | bits:04o}", "anybody" if bits & 0o002 else "the group", "chmod go-w")
    else:
        assert cache.read("a") == b"machine code"


@pytest.mark.parametrize("bits", range(0o100))
def test_an_entry_that_others_may_write_to_is_not_run(folder: Path, bits: int) -> None:
    entry = filled(folder)
    entry.chmod(0o600 | bits)
    if bits & 0o022:
        with pytest.warns(RuntimeWarning, match="may write to .*a .*compiled again"):
            assert cache.read("a") is None
        cache.write("a", b"again")
        assert stat.S_IMODE(entry.stat().st_mode) == 0o600
        assert cache.read("a") == b"again"
    else:
        assert cache.read("a") == b"machine code"


def test_a_sticky_folder_is_no_cache(folder: Path) -> None:
    """It keeps what is there, but anybody adds to it."""
    filled(folder)
    folder.chmod(0o1777)
    refused("anybody may write")


@pytest.mark.parametrize("bits", range(0o100))
@pytest.mark.parametrize("sticky", [0, 0o1000])
def test_a_folder_that_others_could_exchange_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, sticky: int
) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "above" / "more" / "kernels"))
    filled(tmp_path / "above" / "more" / "kernels")
    monkeypatch.setattr(ownership, "_is_private_group", lambda path, status: False)
    above = tmp_path / "above"
    above.chmod(0o700 | bits | sticky)
    if bits & 0o022 and not sticky:
        refused(f"may write to {above}", "another folder in the place of one in it")
    else:
        assert cache.read("a") == b"machine code"


@pytest.mark.parametrize(
    ("gid", "group", "members", "mode", "private"),
    [
        (7, "ann", [], 0o775, True),
        (7, "ann", ["ann"], 0o775, True),
        (7, "ann", ["bob"], 0o775, False),
        (7, "staff", [], 0o775, False),
        (8, "ann", [], 0o775, False),
        (7, "ann", [], 0o777, False),
        (0, "ann", [], 0o775, False),
    ],
)
def test_a_group_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, gid: int, group: str, members: list[str], mode: int, private: bool
) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda user: SimpleNamespace(pw_name="ann", pw_gid=gid and 7))
    monkeypatch.setattr(grp, "getgrgid", lambda number: SimpleNamespace(gr_name=group, gr_mem=members))
    monkeypatch.setattr(os, "listxattr", lambda path: [], raising=False)
    status = SimpleNamespace(st_gid=gid, st_mode=stat.S_IFDIR | mode)
    assert ownership._is_private_group("/there", status) is private
    monkeypatch.setattr(os, "listxattr", lambda path: ["system.posix_acl_access"], raising=False)
    assert ownership._is_private_group("/there", status) is False


# ---- Whose it is


def test_another_owner_is_refused_whoever_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(folder)
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    refused("belongs to", f"user {os.getuid()}")


@as_root
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o555])
def test_the_superuser_does_not_run_what_another_owner_kept(folder: Path, mode: int) -> None:
    entry = filled(folder)
    folder.chmod(mode)
    os.chown(folder, STRANGER, STRANGER)
    refused(f"belongs to user {STRANGER}", "root (user 0)")
    os.chown(folder, 0, 0)
    os.chown(entry, STRANGER, 0)
    with pytest.warns(RuntimeWarning, match=f"belongs to user {STRANGER}.*compiled again"):
        assert cache.read("a") is None
    if mode & 0o200:
        cache.write("a", b"again")
        assert (entry.stat().st_uid, cache.read("a")) == (0, b"again")


@as_root
def test_a_folder_in_another_owners_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "theirs" / "kernels"))
    filled(tmp_path / "theirs" / "kernels")
    os.chown(tmp_path / "theirs", STRANGER, STRANGER)
    refused(f"{tmp_path / 'theirs'} belongs to user {STRANGER}", "another folder in the place of one in it")


@as_root
def test_a_folder_is_not_made_in_another_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", STRANGER, STRANGER)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "theirs" / "more" / "kernels"))
    refused("belongs to")
    assert not list((tmp_path / "theirs").iterdir())


@as_root
def test_the_owner_of_the_root_stands_for_the_superuser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a user namespace does not map the superuser, who owns the folders above the home folder then."""
    folder = tmp_path / "above" / "kernels"
    monkeypatch.setenv(cache.VARIABLE, str(folder))
    filled(folder)
    os.chown(folder.parent, STRANGER, STRANGER)
    real = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, **more: SimpleNamespace(st_uid=STRANGER) if path == "/" else real(path, **more)
    )
    assert cache.read("a") == b"machine code"
    os.chown(folder, STRANGER, STRANGER)
    refused("belongs to")


class Attack:
    """What runs when it comes out of a pickle."""

    def __init__(self, mark: Path) -> None:
        self._mark = str(mark)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, int]]:
        return os.mkdir, (self._mark, 0o700)


READ = """
print(cache.read("a", pickle.loads))
cache.write("b", b"more")
print(sorted(os.listdir(cache.location())) if os.access(cache.location(), os.R_OK) else None)
"""


@as_root
@pytest.mark.parametrize("victim", [0, NOBODY])
@pytest.mark.parametrize("mode", [0o755, 0o775, 0o777])
@pytest.mark.parametrize("group", [STRANGER, NOBODY], ids=["theirs", "shared"])
def test_an_attack_of_another_user(public: Path, victim: int, mode: int, group: int) -> None:
    """A folder that another user made, with the right digest over a pickle that runs what they like."""
    folder, mark = public / "kernels", public / "attacked"
    public.chmod(0o1777)
    content = pickle.dumps(Attack(mark))
    run(f"os.umask(0); cache.write('a', {content!r})", folder, STRANGER)
    os.chown(folder, -1, group)
    folder.chmod(mode)
    printed, warned = run(READ, folder, victim or None)
    assert printed == "None\n['a']"
    assert warned.count("RuntimeWarning") == 1
    assert f"belongs to user {STRANGER}" in warned
    assert not mark.exists()


@as_root
@pytest.mark.parametrize("victim", [0, NOBODY])
def test_an_attack_through_a_shared_group(public: Path, victim: int) -> None:
    """A folder of one's own in which a group may write, and a member that exchanges an entry."""
    folder, mark = public / "kernels", public / "attacked"
    public.chmod(0o1777)
    run("cache.write('a', b'')", folder, victim or None)
    os.chown(folder, -1, STRANGER)
    folder.chmod(0o775)
    content = cache._digest("a", pickle.dumps(Attack(mark))) + pickle.dumps(Attack(mark))
    exchange = f"""
name = os.path.join(cache.location(), "a")
os.unlink(name)
with open(name, "wb") as file:
    file.write({content!r})
"""
    run(exchange, folder, STRANGER)
    printed, warned = run(READ, folder, victim or None)
    assert printed == "None\n['a']"
    assert f"the group {STRANGER} may write to {folder}" in warned
    # When the folder is closed again, the entry is still another's.
    folder.chmod(0o700)
    printed, warned = run(READ, folder, victim or None)
    assert printed == "None\n['a', 'b']"
    assert f"belongs to user {STRANGER}" in warned
    assert not mark.exists()


@as_root
def test_the_attack_would_work(public: Path) -> None:
    """On oneself, whom it is not meant to stop; else the tests above would prove nothing."""
    public.chmod(0o1777)
    mark = public / "attacked"
    run(f"cache.write('a', {pickle.dumps(Attack(mark))!r})", public / "kernels")
    run("cache.read('a', pickle.loads)", public / "kernels")
    assert mark.exists()


# ---- What is written here


@pytest.mark.parametrize("umask", [0, 0o002, 0o022, 0o077])
def test_nothing_is_made_that_others_may_write_to(tmp_path: Path, umask: int) -> None:
    run(
        f"os.umask({umask}); cache.write('a', b'machine code'); cache.cache_dir()",
        tmp_path / "new" / "more" / "kernels",
    )
    made = {path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert made == {"new": 0o700, "new/more": 0o700, "new/more/kernels": 0o700, "new/more/kernels/a": 0o600}


# ---- Links, pipes, and files that change while they are looked at


def test_a_link_of_ones_own_to_the_folder_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "there").symlink_to("real")
    (tmp_path / "link").symlink_to(tmp_path / "there" / ".." / "there")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "link" / "kernels"))
    cache.write("a", b"machine code")
    assert cache.read("a") == b"machine code"
    assert (tmp_path / "real" / "kernels" / "a").exists()
    (tmp_path / "real").chmod(0o777)
    refused(f"anybody may write to {tmp_path / 'real'}")


@as_root
def test_a_link_of_anothers_is_not_followed(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public.chmod(0o1777)
    (public / "real").mkdir(mode=0o700)
    (public / "link").symlink_to(public / "real")
    os.lchown(public / "link", STRANGER, STRANGER)
    monkeypatch.setenv(cache.VARIABLE, str(public / "link"))
    refused(f"{public / 'link'} is a symbolic link of user {STRANGER}")


def test_links_in_a_circle_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "a" / "kernels"))
    refused("symbolic links")


def make_link(entry: Path) -> None:
    entry.rename(entry.parent / "other")
    entry.symlink_to("other")


def make_pipe(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


@pytest.mark.parametrize("change", [make_link, make_pipe])
def test_only_a_file_is_an_entry(folder: Path, change: Callable[[Path], None]) -> None:
    entry = filled(folder)
    change(entry)
    with pytest.warns(RuntimeWarning, match="cannot read"):
        assert cache.read("a") is None
    cache.write("a", b"again")
    assert cache.read("a") == b"again"
    assert not entry.is_symlink()


def test_what_was_looked_at_is_what_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = filled(folder)

    def exchanged(path: str, status: os.stat_result) -> str | None:
        found = ownership.fault_of(path, status)
        entry.unlink()
        entry.write_bytes(b"other")
        return found

    monkeypatch.setattr(cache, "fault_of", exchanged)
    assert cache.read("a") == b"machine code"


def test_the_doctor_says_whose_it_is(folder: Path) -> None:
    filled(folder)
    folder.chmod(0o770)
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        report = doctor.examine(())
    assert not report.cache_writable
    assert "NOT writable (the group" in doctor.describe(report)
    assert "chmod go-w" in doctor.as_dict(report)["cache_fault"]
