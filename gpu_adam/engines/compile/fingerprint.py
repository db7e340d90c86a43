"""What machine code depends on: the parts of which the keys in the kernel cache are made.

A rule decides rather than a list: every setting of a compiler counts, also one that only a later release has, except for the few that are
known to reach no code. A setting too many costs one compilation; one too few leaves its code to everybody.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from types import ModuleType
from typing import Any

_OUTSIDE = frozenset(
    ("NUM_THREADS", "DEFAULT_NUM_THREADS", "CACHE_DIR", "CACHE_LOCATOR_CLASSES", "GDB_BINARY", "COLOR_SCHEME", "CUDA_INCLUDE_PATH")
)  # fmt: skip
"""Settings that differ from process to process by themselves, as the number of processors does, or name places, and reach no code."""

_PREFIX = "NUMBA_"


def digest(parts: Iterable[str]) -> str:
    """A digest of all the parts in their order, of 32 letters."""
    sha = sha256()
    for part in parts:
        # With their lengths, so that no two lists of parts run together into the same text.
        encoded = part.encode(errors="surrogateescape")
        sha.update(b"%d:%s" % (len(encoded), encoded))
    return sha.hexdigest()[:32]


def settings(config: ModuleType, without: str | None = None) -> Iterator[str]:
    """What Numba is told by its configuration: by the environment, a file, or a program. It is brought up to date first.

    Args:
        config: ``numba.core.config``, or the one of numba-cuda.
        without: How the names of settings begin that are of another compiler.
    """
    # As the compiler does. It is refused, and changes nothing, where the number of threads comes too late.
    with suppress(RuntimeError):
        config.reload_config()
    for name, value in sorted(vars(config).items()):
        of_another = without is not None and name.startswith(without)
        if name.isupper() and not of_another and name.removeprefix(_PREFIX) not in _OUTSIDE:
            yield f"{name}={value!r}"


def environment(*prefixes: str) -> Iterator[str]:
    """The environment variables that begin so: a compiler looks at some of them once, when it starts, and not again."""
    for name, value in sorted(os.environ.items()):
        if name.startswith(prefixes) and name.removeprefix(_PREFIX) not in _OUTSIDE:
            yield f"{name}={value}"


@cache
def sources(*names: str) -> tuple[str, ...]:
    """The texts that a kernel in Python is made of: all of ``kernels/``, and what that uses of the package, its dtypes.

    Args:
        names: More files of the package.
    """
    package = files("gpu_adam")
    texts = {name: (package / name).read_text(encoding="utf-8") for name in ("dtypes.py", *names)}
    texts |= {name: entry.read_text(encoding="utf-8") for name, entry in _python_files(files("gpu_adam.kernels"))}
    return tuple(part for name in sorted(texts) for part in (name, texts[name]))


def _python_files(folder: Any, within: str = "kernels") -> Iterator[tuple[str, Any]]:
    """The Python files of a folder and of those in it, with their paths."""
    for entry in folder.iterdir():
        path = f"{within}/{entry.name}"
        if entry.is_dir():
            yield from _python_files(entry, path)
        elif entry.name.endswith(".py"):
            yield path, entry


def package_version(name: str) -> str:
    """The version of an installed package, in words where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


@cache
def library(name: str) -> str:
    """Which of NVIDIA's libraries is loaded under a name such as ``"nvrtc"``: its path, size and time.

    Releases that differ in code share a version number, and a process finds one beside others by a path.
    """
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return file(load_nvidia_dynamic_lib(name).abs_path)
    except Exception as error:  # what finds it changes from release to release; the version is part of each key besides
        return f"{name}: {type(error).__name__}"


def file(path: str | None) -> str:
    """A file's path, size and time; in words where there is none."""
    try:
        found = os.stat(path or "")
    except OSError:
        return f"{path} is not there"
    return f"{path} {found.st_size} {found.st_mtime_ns}"
