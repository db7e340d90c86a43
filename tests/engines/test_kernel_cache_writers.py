"""The cache folder under writers that are killed, and under many at once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gpu_adam.engines.compile import disk as cache
from tests.engines.cache_programs import NURSERY, run

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
