"""Whose a file or a folder is, and who else could change it. What lies in the kernel cache is run, so it must be nobody else's doing."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

if os.name == "posix":
    import grp
    import pwd

_MAX_LINKS = 40
"""Symbolic links on the way to a folder, as many as Linux follows."""


def fault_of_way(folder: str) -> str | None:
    """What lets somebody else decide what is found in a folder, and the remedy; ``None`` if nobody else can, or it is not there yet.

    The folder must be this user's and writable for nobody else. A folder above it must be this user's or the superuser's, and whoever may
    write to it must not be able to put another folder in its place, as in ``/tmp`` they are not. Each is looked at from the root down, a
    link and where it leads to as well, so that what was found good cannot change while the next is looked at.

    Args:
        folder: Its absolute path.

    Raises:
        OSError: If something on the way cannot be looked at, or is no folder.
    """
    if os.name != "posix":
        return None  # the permissions of other systems are not shown by stat
    at, rest, links = os.sep, _parts(folder), 0
    while True:
        try:
            status = os.lstat(at)
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MAX_LINKS:
                return (
                    f"{folder} leads through more than {_MAX_LINKS} symbolic links: name the folder that they lead to"
                )
            if not _is_trusted(status.st_uid):
                return f"{at} is a symbolic link of {_user(status.st_uid)}: name the folder that it leads to"
            target = os.readlink(at)
            at, rest = (os.sep if os.path.isabs(target) else os.path.dirname(at)), [*_parts(target), *rest]
        elif not rest:
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(f"{at} is no folder")
            return fault_of(at, status)
        else:
            found = _fault_above(at, status)
            if found is not None:
                return found
        if rest:
            # No link is left in the path, so that the folder above is the one that its name says.
            part = rest.pop(0)
            at = os.path.dirname(at) if part == os.pardir else os.path.join(at, part)


def fault_of(path: str, status: os.stat_result) -> str | None:
    """Who else decides what a file or folder holds, and the remedy; ``None`` if only this user does."""
    if os.name != "posix":
        return None
    if status.st_uid != os.geteuid():
        return (
            f"{path} belongs to {_user(status.st_uid)} and not to {_user(os.geteuid())}, and what is found there is run"
        )
    writers = _writers(status)
    if writers is None:
        return None
    return (
        f"{writers} may write to {path} (mode {stat.S_IMODE(status.st_mode):04o}), and what is found there is run: "
        f"remove it, or, if you know what lies there, chmod go-w {path}"
    )


def _fault_above(path: str, status: os.stat_result) -> str | None:
    """Who else could put another folder in the place of one that lies in this one, and the remedy."""
    if not _is_trusted(status.st_uid):
        return f"{path} belongs to {_user(status.st_uid)}, who could put another folder in the place of one in it"
    writers = _writers(status)
    # In a sticky folder nobody renames or removes what is another's.
    if writers is None or status.st_mode & stat.S_ISVTX or _is_private_group(path, status):
        return None
    return (
        f"{writers} may write to {path} (mode {stat.S_IMODE(status.st_mode):04o}), "
        f"and so put another folder in the place of one in it: chmod go-w {path}, or chmod +t {path}"
    )


def _is_trusted(owner: int) -> bool:
    # The superuser can change every file anyhow, and so can the owner of the root, who stands for the superuser where a user namespace
    # does not map it.
    return owner in (0, os.geteuid()) or owner == os.stat(os.sep).st_uid


def _writers(status: os.stat_result) -> str | None:
    """Who may write besides the owner. A list of access rights that lets more people write shows in the group's bits."""
    if status.st_mode & stat.S_IWOTH:
        return "anybody"
    if status.st_mode & stat.S_IWGRP:
        return f"the group {_group(status.st_gid)}"
    return None


def _is_private_group(path: str, status: os.stat_result) -> bool:
    """Whether only the group may write, and it is the one that many systems give each user, with nobody else in it.

    There the usual umask is 002, and a folder such as ``~/.cache`` may be writable for that group. The superuser's is no such group: many
    containers put every user into it.
    """
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    own = user.pw_gid == status.st_gid != 0 and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    return own and not status.st_mode & stat.S_IWOTH and not _has_access_list(path)


def _has_access_list(path: str) -> bool:
    attributes: Callable[[str], list[str]] | None = getattr(os, "listxattr", None)
    try:
        return attributes is None or "system.posix_acl_access" in attributes(path)
    except OSError:
        return False  # a file system without them


def _parts(path: str) -> list[str]:
    return [part for part in path.split(os.sep) if part not in ("", os.curdir)]


def _user(number: int) -> str:
    try:
        return f"{pwd.getpwuid(number).pw_name} (user {number})"
    except KeyError:
        return f"user {number}"


def _group(number: int) -> str:
    try:
        return f"{grp.getgrgid(number).gr_name} ({number})"
    except KeyError:
        return str(number)
