"""How many threads a step is shared out to: affinity, Python's own number, and the CPU quotas of containers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_adam.doctor import machine, report
from gpu_adam.engines import processors, threads
from gpu_adam.engines.cgroups import cpu_quota
from gpu_adam.engines.processors import usable_processors
from tests.process.cgroup_trees import PERIOD, Hierarchy, build
from tests.support.strategies import PROVE

CPU_V1 = "/sys/fs/cgroup/cpu,cpuacct"
ONE_AND_A_HALF, TWO, FOUR = ((quota, PERIOD) for quota in (150_000, 200_000, 400_000))


def of(root: Path) -> float | None:
    quota = cpu_quota(root)
    return None if quota is None else quota.processors


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight processors, all of which the process may run on."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)


# Trees of every kind. A group's name may hold what mountinfo escapes, and what it separates its fields by.

names = st.text(st.sampled_from("ab1-._:\\ #\té\r"), min_size=1, max_size=6).filter(
    lambda name: name not in (".", "..")
)
ways = st.lists(names, max_size=4)
quotas = st.one_of(
    st.none(),
    st.tuples(
        st.one_of(st.none(), st.integers(1_000, 3_000_000)), st.one_of(st.just(PERIOD), st.integers(1_000, 1_000_000))
    ),
)


@st.composite
def hierarchies(draw: st.DrawFn, controllers: str) -> tuple[Hierarchy, list[Fraction]]:
    """A hierarchy, and the quotas that hold in it."""
    shown, way = draw(st.sampled_from([[], [".."], ["..", ".."]])) + draw(ways), draw(ways)
    mounted = f"/sys/fs/{draw(names)}/{controllers or 'unified'}"
    levels = {"/".join(way[:depth]): draw(quotas) for depth in range(len(way) + 1)}
    found = {level: quota for level, quota in levels.items() if quota is not None}
    # Of a group beside these, and of one further down.
    beside = {"/".join([*way, "further down"]): (1_000, PERIOD), "beside": (1_000, PERIOD)}
    hierarchy = Hierarchy("/" + "/".join(shown + way), "/" + "/".join(shown), mounted, found | beside, controllers)
    return hierarchy, [Fraction(quota, period) for quota, period in found.values() if quota is not None]


layouts = st.one_of(
    st.tuples(hierarchies("")),
    st.tuples(hierarchies("cpu")),
    st.tuples(hierarchies("cpu,cpuacct")),
    # Both versions at once, as systemd's hybrid mode has them; quotas in either.
    st.tuples(hierarchies("cpuacct,cpu"), hierarchies("")),
)


@PROVE
@given(layout=layouts)
def test_the_least_quota_of_the_group_and_of_those_above_it(
    layout: tuple[tuple[Hierarchy, list[Fraction]], ...],
) -> None:
    with TemporaryDirectory() as folder:
        others = [Hierarchy("/x", mounted="/sys/fs/cgroup/cpuset", controllers="cpuset", quotas={"x": (1_000, PERIOD)})]
        root = build(Path(folder), *(hierarchy for hierarchy, _ in layout), *others)
        quota = cpu_quota(root)
        expected = min((each for _, found in layout for each in found), default=None)
        assert (None if quota is None else Fraction(quota.quota, quota.period)) == expected
        if quota is not None and expected is not None:
            assert quota.threads == max(1, ceil(expected))
            assert quota.file.is_file()


@PROVE
@given(
    groups=st.binary(max_size=60) | st.text("0:cpu,/.\n", max_size=60).map(str.encode),
    mounts=st.binary(max_size=80) | st.text("1 0:/.-cgroup2cpu\\04\n", max_size=80).map(str.encode),
    words=st.binary(max_size=30) | st.text("max-+1234567890_ .e\n", max_size=30).map(str.encode),
)
def test_whatever_the_files_hold_they_are_read_and_there_is_a_processor(
    groups: bytes, mounts: bytes, words: bytes
) -> None:
    with TemporaryDirectory() as folder:
        root = build(Path(folder), Hierarchy("/a", quotas={"a": TWO}))
        (root / "sys/fs/cgroup/a/cpu.max").write_bytes(words)
        assert usable_processors(root).count >= 1
        for name, content in (("cgroup", groups), ("mountinfo", mounts)):
            (root / "proc/self" / name).write_bytes(content)
            assert usable_processors(root).count >= 1


# Places that are known from elsewhere.


@pytest.mark.parametrize(
    ("hierarchy", "expected"),
    [
        # A container with a namespace of its own, and without one.
        (Hierarchy("/", quotas={"": ONE_AND_A_HALF}), 1.5),
        (Hierarchy("/docker/1f", "/docker/1f", CPU_V1, {"": TWO}, "cpu,cpuacct"), 2.0),
        (Hierarchy("/docker/1f/job", "/docker/1f", CPU_V1, {"": FOUR, "job": TWO}, "cpu,cpuacct"), 2.0),
        # The limit of a pod, or of a slice, holds for what is in it.
        (Hierarchy("/user.slice/a.service", quotas={"user.slice": TWO, "user.slice/a.service": (None, PERIOD)}), 2.0),
        # No folder of the group's: the mount is of the container's own group though it does not say so.
        (Hierarchy("/docker/1f", quotas={"": TWO}), 2.0),
        # Mounted outside of this namespace.
        (Hierarchy("/../../a", "/../..", quotas={"": FOUR, "a": TWO}), 2.0),
        (Hierarchy("/a", "/..", quotas={"": FOUR, "a": (1_000, PERIOD)}), 4.0),
        # A group that cannot be seen: what is mounted is the best guess.
        (Hierarchy("/../other", quotas={"": TWO, "other": (1_000, PERIOD)}), 2.0),
        (Hierarchy("/docker/2", "/docker/1", CPU_V1, {"": TWO}, "cpu,cpuacct"), 2.0),
        # Not the same group, though its name begins so.
        (Hierarchy("/ab", quotas={"a": TWO, "ab": FOUR}), 4.0),
        # None at all.
        (Hierarchy("/", quotas={"": (None, PERIOD)}), None),
        (Hierarchy("/", quotas={"": (None, PERIOD)}, controllers="cpu"), None),
        (Hierarchy("/a", quotas={}), None),
        # A thousandth of a processor is one thread.
        (Hierarchy("/", quotas={"": (1_000, 1_000_000)}), 0.001),
    ],
)
def test_the_quota_of(hierarchy: Hierarchy, expected: float | None, tmp_path: Path) -> None:
    assert of(build(tmp_path, hierarchy)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[("max", None), ("max 100000", None), ("", None), ("0 100000", None), ("100000 0", None), ("-1 100000", None)],
        *[("1e5 100000", None), ("9" * 5000 + " 100000", None), ("²0 1", None), ("100000 x", None)],
        *[("50000", 0.5), ("50000 100000", 0.5), ("250000 100000 \n", 2.5)],
    ],
)
def test_what_cpu_max_may_hold(text: str, expected: float | None, tmp_path: Path) -> None:
    build(tmp_path, Hierarchy("/", quotas={"": TWO}))
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(text, encoding="utf-8")
    assert of(tmp_path) == expected


def test_the_second_file_of_version_1_may_be_missing_but_not_the_first(tmp_path: Path) -> None:
    build(tmp_path, Hierarchy("/", CPU_V1, CPU_V1, {"": TWO}, "cpu"))
    (tmp_path / CPU_V1[1:] / "cpu.cfs_period_us").unlink()
    assert of(tmp_path) == 2.0
    (tmp_path / CPU_V1[1:] / "cpu.cfs_period_us").write_text("50000")
    (tmp_path / CPU_V1[1:] / "cpu.cfs_quota_us").unlink()
    assert of(tmp_path) is None


@pytest.mark.parametrize("name", ["cgroup", "mountinfo"])
def test_without_the_kernels_lists_there_is_no_quota(name: str, tmp_path: Path) -> None:
    build(tmp_path, Hierarchy("/", quotas={"": TWO}))
    (tmp_path / "proc/self" / name).unlink()
    assert of(tmp_path) is None
    (tmp_path / "proc/self" / name).mkdir()  # cannot be read
    assert of(tmp_path) is None


def test_a_file_that_may_not_be_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, Hierarchy("/a", quotas={"": FOUR, "a": TWO}))
    read_text = Path.read_text

    def refused(self: Path, *args: object, **kwargs: object) -> str:
        if self.parent.name == "a":
            raise PermissionError(13, "Permission denied")
        return read_text(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refused)
    assert of(tmp_path) == 4.0


def test_a_hierarchy_that_is_mounted_twice_is_looked_at_where_the_group_is_seen(tmp_path: Path) -> None:
    elsewhere = Hierarchy("/a/b", "/c", "/mnt/c", {"": (1_000, PERIOD)})
    here = Hierarchy("/a/b", "/a", "/mnt/a", {"": FOUR, "b": TWO})
    build(tmp_path, elsewhere, here)
    assert of(tmp_path) == 2.0


# The number of threads.


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(("quota", "count"), [(ONE_AND_A_HALF, 2), (TWO, 2), ((1, PERIOD), 1), ((900_000, PERIOD), 8)])
def test_a_quota_is_rounded_up_and_never_adds_processors(quota: tuple[int, int], count: int, tmp_path: Path) -> None:
    found = usable_processors(build(tmp_path, Hierarchy("/", quotas={"": quota})))
    assert found.count == count
    assert ("quota" in found.source) == (count < 8)


@pytest.mark.usefixtures("eight")
def test_pythons_own_number_and_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = build(tmp_path, Hierarchy("/", quotas={"": FOUR}))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6})
    assert usable_processors(root) == processors.Processors(3, "affinity, of 8")
    monkeypatch.setattr(os, "process_cpu_count", lambda: 2, raising=False)
    assert usable_processors(root) == processors.Processors(2, "-X cpu_count or PYTHON_CPU_COUNT")
    monkeypatch.setattr(os, "process_cpu_count", lambda: 6)
    assert usable_processors(root).count == 4
    monkeypatch.setattr(os, "process_cpu_count", lambda: None)
    assert usable_processors(root).count == 3


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python 3.13 has a number of its own")
def test_pythons_own_variable() -> None:
    code = "from gpu_adam.engines.threads import thread_count; print(thread_count())"
    environment = {**os.environ, "PYTHON_CPU_COUNT": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("GPU_ADAM_NUM_THREADS", None)
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == "1\n"


def test_a_system_that_knows_neither_affinity_nor_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_processors(tmp_path) == processors.Processors(6, "all there are")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_processors(tmp_path).count == 1


def test_the_environment_asks_for_any_number_whatever_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_processors", lambda: processors.Processors(3, "a quota"))
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    assert threads.thread_count() == 3
    monkeypatch.setenv(threads.VARIABLE, "7")
    assert threads.thread_count() == 7


def test_the_doctor_says_where_the_number_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_processors", lambda: processors.Processors(2, "a quota of 1.5 in /x, of 8"))
    monkeypatch.setenv(threads.VARIABLE, "5")
    found = report.Report(machine.find_machine(), {}, None, "/cache", True, None, [])
    assert "2 usable (a quota of 1.5 in /x, of 8); GPU_ADAM_NUM_THREADS=5\n" in report.describe(found)
    assert json.loads(json.dumps(report.as_dict(found)))["machine"]["processors_source"].startswith("a quota")
    monkeypatch.delenv(threads.VARIABLE)
    found = report.Report(machine.find_machine(), {}, None, "/cache", True, None, [])
    assert "2 usable (a quota of 1.5 in /x, of 8)\n" in report.describe(found)


# A real quota, where this machine lets one be set.


@pytest.fixture
def real_group() -> Iterator[Path]:
    for place, file, value in (
        ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "100000"),
        ("/sys/fs/cgroup", "cpu.max", "100000 100000"),
    ):
        group = Path(place, f"gpu_adam-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / file).exists():
                (group / file).write_text(value)
                yield group
                return
        except OSError:
            pass
        finally:
            group.rmdir()
    pytest.skip("no control group with a CPU quota can be made here")


def test_a_step_in_a_real_group_has_as_many_threads_as_its_quota_allows(real_group: Path) -> None:
    code = (
        "import os, pathlib, sys, threading; pathlib.Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()));"
        "import numpy as np; from gpu_adam import GpuAdam; p = np.ones(1 << 20, np.float32);"
        "GpuAdam([p]).step([p.copy()]); from gpu_adam.engines import cpu; print(cpu.engine().pool.count, threading.active_count())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("GPU_ADAM_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", code, str(real_group)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.stdout == "1 1\n", done.stderr
