"""The folder that compiled kernels are kept in between processes, and entries in it that cannot be half written or silently wrong."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import warnings
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

VARIABLE = "GPU_ADAM_CACHE_DIR"
"""The environment variable that names another folder."""

_DIGEST = sha256().digest_size


def cache_dir() -> Path | None:
    """The cache folder, made if need be; ``None`` if it cannot be written, after one warning.

    It is ``$GPU_ADAM_CACHE_DIR``, else ``gpu_adam`` in the user's cache folder: ``%LOCALAPPDATA%`` on Windows, ``~/Library/Caches`` on
    macOS, ``$XDG_CACHE_HOME`` or ``~/.cache`` elsewhere.
    """
    return _usable(location())


def location() -> str:
    """Where the cache folder is or would be; with a ``~`` in front where the user has no home."""
    name = os.path.expanduser(os.environ.get(VARIABLE) or _user_folder())
    # Made absolute, it would be a folder called ~ in the current one.
    return name if name.startswith("~") else os.path.abspath(name)


def read(name: str) -> bytes | None:
    """The entry called ``name``, or ``None`` if there is none; a damaged entry is a warning and counts as none."""
    folder = cache_dir()
    if folder is None:
        return None
    try:
        entry = (folder / name).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn(f"cannot read {folder / name} ({error}); the kernel is compiled again")
        return None
    digest, content = entry[:_DIGEST], entry[_DIGEST:]
    if sha256(content).digest() != digest:
        _warn(f"the cache entry {folder / name} is damaged; the kernel is compiled again")
        return None
    return content


def write(name: str, content: bytes) -> None:
    """Keep ``content`` as the entry called ``name``; where that fails, a warning.

    The entry appears under its name only when it is complete, so that processes which compile the same kernel at the same time each
    find a whole one, whichever came last.
    """
    folder = cache_dir()
    if folder is None:
        return
    try:
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(sha256(content).digest() + content)
            os.replace(temporary, folder / name)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        _warn(f"cannot write {folder / name} ({error}); the kernel is kept in memory only")


def _user_folder() -> str:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.join("~", "AppData", "Local")
    elif sys.platform == "darwin":
        base = os.path.join("~", "Library", "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.join(base, "gpu_adam")


@lru_cache
def _usable(name: str) -> Path | None:
    # Remembered for each folder: one warning a process, and no file is created to try it more than once.
    folder = Path(name)
    try:
        if name.startswith("~"):
            raise FileNotFoundError("this user has no home folder")
        # Compiled code is loaded from here: nobody else may write to it.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix" and folder.stat().st_mode & stat.S_IWOTH:
            raise PermissionError("anybody may write to it, and what is found there is run")
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        _warn(
            f"the cache folder {folder} cannot be used ({error}); kernels are kept in memory only. Set {VARIABLE} to another folder"
        )
        return None


def _warn(message: str) -> None:
    warnings.warn(f"gpu_adam: {message}", RuntimeWarning, stacklevel=3)
