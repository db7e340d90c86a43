"""CPU quotas of containers: what Linux control groups of either version let this process use, which affinity does not show.

``/proc/self/cgroup`` names the process's group in each hierarchy, ``/proc/self/mountinfo`` the folders where hierarchies can be seen. Both
count from the root of the process's cgroup namespace, above which ``..`` leads, and a mount may show a part of a hierarchy only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_PERIOD = 100_000
"""Microseconds in which a quota may be used up, where the kernel names none."""

_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Quota:
    """Processor time that a group of processes may take.

    Attributes:
        quota: Microseconds in each period.
        period: The period, in microseconds.
        file: Where it is set.
    """

    quota: int
    period: int
    file: Path

    @property
    def processors(self) -> float:
        """How many processors it keeps busy."""
        return self.quota / self.period

    @property
    def threads(self) -> int:
        """The fewest threads that can use it up.

        >>> Quota(150_000, 100_000, Path("cpu.max")).threads
        2
        """
        return max(1, -(-self.quota // self.period))


def cpu_quota(root: Path = Path("/")) -> Quota | None:
    """The smallest quota of this process's control groups and of all groups above them that can be seen; ``None`` if there is none.

    Args:
        root: The folder that holds ``proc`` and the folders that are mounted.
    """
    try:
        # Bytes: a folder's name may be anything.
        groups = (root / "proc/self/cgroup").read_bytes()
        mounts = (root / "proc/self/mountinfo").read_bytes()
    except OSError:  # no Linux, or no right to look
        return None
    found = [
        quota
        for hierarchy in _hierarchies(groups, mounts)
        for folder in hierarchy.folders(root)
        if (quota := hierarchy.quota(folder)) is not None
    ]
    return min(found, key=lambda quota: quota.processors, default=None)


@dataclass(frozen=True)
class _Hierarchy:
    """A hierarchy of control groups that counts processor time.

    Attributes:
        is_unified: Whether it is version 2.
        group: The process's group.
        mounts: For each folder that shows it the group that is shown, and the folder.
    """

    is_unified: bool
    group: str
    mounts: Sequence[tuple[str, str]]

    def folders(self, root: Path) -> Iterator[Path]:
        """The folders of the process's group and of those above it."""
        ways = [(mounted, _below(shown, self.group)) for shown, mounted in self.mounts]
        seen = [(mounted, way) for mounted, way in ways if way is not None]
        # Where the group is not seen, what a container mounts as its own group is the best guess, as Java's is.
        for mounted, way in seen or [(mounted, []) for mounted, _ in ways]:
            for depth in range(len(way), -1, -1):
                yield root.joinpath(mounted.lstrip("/"), *way[:depth])

    def quota(self, folder: Path) -> Quota | None:
        """The quota that is set in a folder."""
        file = folder / ("cpu.max" if self.is_unified else "cpu.cfs_quota_us")
        numbers = _numbers(file)
        if not self.is_unified and numbers:
            numbers = numbers[:1] + _numbers(folder / "cpu.cfs_period_us")
        quota, period = (numbers + [0, _PERIOD][len(numbers) :])[:2]
        return Quota(quota, period, file) if quota and period else None


def _hierarchies(groups: bytes, mounts: bytes) -> Iterator[_Hierarchy]:
    """The hierarchies that may set quotas: at most one of each version, and a kernel has quotas in one of them."""
    shown: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
    for line in mounts.split(b"\n"):
        # id, parent, device, root, mount point, options, optional fields, "-", type, source, options of the file system
        before, _, after = line.partition(b" - ")
        place, system = before.split(b" "), after.split(b" ")
        if len(place) < 6 or len(system) < 3:
            continue
        is_unified = system[0] == b"cgroup2"
        if is_unified or (system[0] == b"cgroup" and b"cpu" in system[2].split(b",")):
            shown[is_unified].append((_unescaped(place[3]), _unescaped(place[4])))
    for line in groups.split(b"\n"):
        # number, controllers, group; the group is not escaped and may hold colons
        _, found, rest = line.partition(b":")
        controllers, found, group = rest.partition(b":")
        is_unified = not controllers
        if found and (is_unified or b"cpu" in controllers.split(b",")):
            yield _Hierarchy(is_unified, os.fsdecode(group), shown[is_unified])


def _unescaped(field: bytes) -> str:
    r"""A field of mountinfo, where white space and backslashes are written in octal.

    >>> _unescaped(rb"/a\040b\134c")
    '/a b\\c'
    """
    return os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match[1], 8) & 255]), field))


def _below(shown: str, group: str) -> list[str] | None:
    """The way from the group that a mount shows down to a group; ``None`` if that is not beneath, so that the mount does not show it.

    >>> _below("/docker/1", "/docker/1/worker")
    ['worker']
    >>> _below("/../..", "/../../user/1")
    ['user', '1']
    >>> _below("/", "/../other"), _below("/docker/1", "/docker/10")
    (None, None)

    Where the mount shows a group above the namespace's own, the names between the two are not known, and the way ends at the mount:

    >>> _below("/..", "/worker")
    []
    """
    top, bottom = ([part for part in path.split("/") if part not in ("", ".")] for path in (shown, group))
    ups = [len(parts) - len(_names(parts)) for parts in (top, bottom)]
    if ups[0] > ups[1]:
        return None if _names(top) else []
    is_beneath = bottom[: len(top)] == top and ".." not in bottom[len(top) :]
    return bottom[len(top) :] if is_beneath else None


def _names(parts: Sequence[str]) -> list[str]:
    """A path but for the ``..`` that it begins with."""
    return [part for part in parts if part != ".."]


def _numbers(file: Path) -> list[int]:
    """The numbers of a file of the kernel's, 0 for what is no positive one (``max`` and -1 are no quota); none where it cannot be read."""
    try:
        words = file.read_text(encoding="ascii").split()
    except (OSError, ValueError):  # the topmost group has none, a controller may be off, the text may be no text
        return []
    return [int(word) if word.isdecimal() and len(word) < 20 else 0 for word in words]
