"""Machine code of Numba's CPU kernels on disk.

Numba's own cache is not used: it knows of a change in the file of a function but not in the files of those that it calls, names its data by
numbers that two processes may both give out, for different signatures, and trusts what it finds. Here one kernel is one entry, under a key
that covers every source, version and processor feature that the code depends on.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import platform
from importlib.resources import files
from typing import Any

import llvmlite
import numba
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from .. import cache


@functools.cache
def _sources() -> bytes:
    """A digest of every Python file that a kernel is made from, and of the versions of what compiles it."""
    digest = hashlib.sha256()
    texts = [entry for entry in files("gpu_adam.kernels").iterdir() if entry.name.endswith(".py")]
    texts += [files("gpu_adam") / name for name in ("formats.py", "layout.py", "plan.py", "prologue.py")]
    for text in sorted(texts, key=lambda entry: entry.name):
        digest.update(text.read_bytes())
    digest.update(repr((numba.__version__, llvmlite.__version__, platform.python_version())).encode())
    return digest.digest()


class _DiskCache(_Cache):  # type: ignore[misc]
    """What Numba asks of a cache, for one kernel with one signature."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _entry(self, signature: Any, codegen: Any) -> str:
        # magic_tuple names the processor and its features.
        parts = repr((self._name, signature, codegen.magic_tuple()))
        return f"{self._name}-{hashlib.sha256(_sources() + parts.encode()).hexdigest()[:32]}.numba"

    @property
    def cache_path(self) -> str:
        return str(cache.cache_dir())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        content = cache.read(self._entry(sig, target_context.codegen()))
        return None if content is None else CompileResult._rebuild(target_context, *pickle.loads(content))

    def save_overload(self, sig: Any, data: Any) -> None:
        cache.write(self._entry(sig, data.codegen), dumps(data._reduce()))

    def enable(self) -> None:
        """Always on."""

    def disable(self) -> None:
        """Always on."""

    def flush(self) -> None:
        """Entries are never renewed under the same key."""


def keep_on_disk(kernel: Any, name: str) -> None:
    """Give a Numba dispatcher this cache, before its first compilation."""
    kernel._cache = _DiskCache(name)
