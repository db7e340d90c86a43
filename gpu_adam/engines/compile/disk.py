"""The folder that compiled kernels are kept in between processes. Entries in it cannot be half written, silently wrong, or another user's.

What is read here is run: whoever can write to the folder runs code as its users. So the folder and its entries must belong to the user who
reads them and be writable for nobody else; otherwise kernels are kept in memory only.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from .ownership import fault_of, fault_of_way

VARIABLE = "GPU_ADAM_CACHE_DIR"
"""The environment variable that names another folder."""

ABANDONED = 6 * 3600
"""Seconds after which a file that was never given its name is taken for what a killed process has left."""

_DIGEST = sha256().digest_size
_PREFIX = ".gpu_adam."
_TEMPORARY = re.compile(r"\.(gpu_adam\..+|.+-[0-9a-f]{32}\.[a-z.]+)\.[a-z0-9_]{8}")
"""What a file is called before it has its name, now and in earlier versions; nothing of anybody else's, wherever the folder is."""


def cache_dir() -> Path | None:
    """The cache folder, made if need be; ``None`` if no kernels can be kept there, after one warning.

    It is ``$GPU_ADAM_CACHE_DIR``, else ``gpu_adam`` in the user's cache folder: ``%LOCALAPPDATA%`` on Windows, ``~/Library/Caches`` on
    macOS, ``$XDG_CACHE_HOME`` or ``~/.cache`` elsewhere.
    """
    try:
        return Path(_writable())
    except OSError as error:
        _warn_of_folder(error)
        return None


def fault() -> str | None:
    """Why no kernels can be kept in the cache folder, which is made if need be; ``None`` if they can."""
    try:
        _writable()
    except OSError as error:
        return str(error)
    return None


def location() -> str:
    """Where the cache folder is or would be; with a ``~`` in front where the user has no home."""
    name = os.path.expanduser(os.environ.get(VARIABLE) or _user_folder())
    # Made absolute, it would be a folder called ~ in the current one.
    if name.startswith("~"):
        return name
    try:
        return os.path.abspath(name)
    except FileNotFoundError:  # the current folder was removed
        return name


def read(name: str, decode: Callable[[bytes], Any] = bytes) -> Any:
    """What the entry called ``name`` holds, or ``None`` if there is none.

    An entry that is damaged, another's, or written under another name is a warning and counts as none. The folder need not be writable.

    Args:
        name: The entry's name.
        decode: Makes of the entry's content what is returned. Whatever it raises is a warning, and the entry counts as none.
    """
    try:
        path = os.path.join(_folder(), name)
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn_of_folder(error)
        return None
    try:
        entry = _read_own(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        # Of all the entries that the system does not hand over, the first; of those that are another's or no files, each.
        once = error.errno and ("read", os.path.dirname(path), error.errno)
        _warn(f"cannot read {path} ({error}); the kernel is compiled again", once)
        return None
    digest, content = entry[:_DIGEST], entry[_DIGEST:]
    if digest != _digest(name, content):
        _warn(f"the cache entry {path} is damaged; the kernel is compiled again")
        return None
    try:
        return decode(content)
    except Exception as error:
        _warn(f"the cache entry {path} cannot be used ({type(error).__name__}: {error}); the kernel is compiled again")
        return None


def write(name: str, content: bytes) -> None:
    """Keep ``content`` as the entry called ``name``; where that fails, a warning.

    The entry appears under its name only when it is complete, so that processes which compile the same kernel at the same time each
    find a whole one, whichever came last.
    """
    try:
        folder = _made()
    except OSError as error:
        _warn_of_folder(error)
        return
    path = os.path.join(folder, name)
    try:
        # Readable and writable for this user alone, whatever the umask.
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f"{_PREFIX}{name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                _sweep(folder, os.fstat(handle).st_mtime)
                file.write(_digest(name, content) + content)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        # Of all the entries that a full disk or a write-protected folder does not take, the first.
        _warn(f"cannot write {path} ({error}); the kernel is kept in memory only", once=("write", folder, error.errno))


def _digest(name: str, content: bytes) -> bytes:
    # With the name, so that no entry passes for another's.
    return sha256(b"%d:%s%s" % (len(name.encode()), name.encode(), content)).digest()


def _read_own(path: str) -> bytes:
    """The bytes of a file that is this user's alone. It is opened once, so that what was looked at is what is read.

    Raises:
        OSError: If it cannot be read, is no file, or another can change it.
    """
    # Not to wait for the other end where it is a pipe; not to follow a link.
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no file")
        found = fault_of(path, status)
        if found is not None:
            raise PermissionError(found)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _sweep(folder: str, now: float) -> None:
    """Remove what killed writers have left.

    Args:
        folder: Where.
        now: The time by the clock that gives the files theirs, which on a network is another machine's.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name):
                # One that another process removes meanwhile, or on Windows still has open, is left alone.
                with suppress(OSError):
                    if abs(now - entry.stat(follow_symlinks=False).st_mtime) > ABANDONED:
                        os.unlink(entry.path)


def _user_folder() -> str:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.join("~", "AppData", "Local")
    elif sys.platform == "darwin":
        base = os.path.join("~", "Library", "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.join(base, "gpu_adam")


def _folder() -> str:
    """The folder's path; it may not be there yet.

    Raises:
        OSError: If it cannot be, or somebody else decides what is found there.
    """
    folder = location()
    if not os.path.isabs(folder):
        raise FileNotFoundError(
            "this user has no home folder" if folder.startswith("~") else "the current folder was removed"
        )
    # Looked at each time, for it may change while the process lives; it takes less than a thousandth of what a kernel takes to load.
    found = fault_of_way(folder)
    if found is not None:
        raise PermissionError(found)
    return folder


def _made() -> str:
    """The folder's path; it is there."""
    folder = _folder()
    if not os.path.isdir(folder):
        _make(folder)
        # Another may have made it first.
        _folder()
    return folder


def _make(folder: str) -> None:
    """Make a folder, and those above it, for this user alone; `os.makedirs` makes those above for whom the umask lets."""
    with suppress(FileExistsError):
        try:
            os.mkdir(folder, 0o700)
        except FileNotFoundError:
            if os.path.dirname(folder) == folder:
                raise
            _make(os.path.dirname(folder))
            os.mkdir(folder, 0o700)


def _writable() -> str:
    folder = _made()
    with tempfile.TemporaryFile(dir=folder, prefix=f"{_PREFIX}probe."):
        return folder


_told: set[object] = set()


def _warn_of_folder(error: OSError) -> None:
    message = f"the cache folder {location()} cannot be used ({error}); kernels are kept in memory only. Set {VARIABLE} to another folder"
    _warn(message, once=location())


def _warn(message: str, once: object = None) -> None:
    """Warn; of what is the same for many entries, ``once`` in a process."""
    if once is not None:
        if once in _told:
            return
        _told.add(once)
    warnings.warn(f"gpu_adam: {message}", RuntimeWarning, stacklevel=3)
