"""Control groups as files: the kernel's two lists of a process, and the folders of a hierarchy with quotas in them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

PERIOD = 100_000


@dataclass
class Hierarchy:
    """A hierarchy that is mounted once.

    Attributes:
        group: The process's group, as ``/proc/self/cgroup`` has it.
        shown: The group that is mounted, as ``mountinfo`` has it.
        mounted: Where.
        quotas: By the way down from the mount: what is written there, as (quota, period); ``None`` for a word instead of the quota.
        controllers: Of version 1; none for version 2.
        word: What stands for no quota.
    """

    group: str
    shown: str = "/"
    mounted: str = "/sys/fs/cgroup"
    quotas: dict[str, tuple[int | None, int]] = field(default_factory=dict)
    controllers: str = ""

    def line(self, number: int) -> str:
        return f"{number}:{self.controllers}:{self.group}\n"

    def mount(self, number: int) -> str:
        system = "cgroup" if self.controllers else "cgroup2"
        options = f"rw,{self.controllers}" if self.controllers else "rw,nsdelegate"
        # Optional fields come before the dash: none, one or several.
        optional = ["", "shared:9 ", "shared:9 master:3 "][number % 3]
        return (
            f"{30 + number} 25 0:{26 + number} {escaped(self.shown)} {escaped(self.mounted)} rw,nosuid,relatime {optional}- "
            f"{system} {system} {options}\n"
        )

    def build(self, root: Path) -> None:
        for way, (quota, period) in self.quotas.items():
            folder = root / self.mounted.lstrip("/") / way
            folder.mkdir(parents=True, exist_ok=True)
            if self.controllers:
                (folder / "cpu.cfs_quota_us").write_text(f"{-1 if quota is None else quota}\n")
                (folder / "cpu.cfs_period_us").write_text(f"{period}\n")
            else:
                (folder / "cpu.max").write_text(f"{'max' if quota is None else quota} {period}\n")


def build(root: Path, *hierarchies: Hierarchy, other_mounts: str = "22 27 0:21 / /proc rw - proc proc rw\n") -> Path:
    """Write all of it below ``root``, which is returned."""
    folder = root / "proc/self"
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(each.line(number) for number, each in enumerate(hierarchies))
    mounts = other_mounts + "".join(each.mount(number) for number, each in enumerate(hierarchies))
    (folder / "cgroup").write_bytes(os.fsencode(lines))
    (folder / "mountinfo").write_bytes(os.fsencode(mounts))
    for each in hierarchies:
        each.build(root)
    return root


def escaped(path: str) -> str:
    """As the kernel writes paths in mountinfo."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\#" else c for c in path)
