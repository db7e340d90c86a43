"""Machine code of Numba's CPU kernels on disk.

Numba's own cache is not used: it knows of a change in the file of a function but not in the files of those that it calls, names its data by
numbers that two processes may both give out, for different signatures, and trusts what it finds. Here one kernel is one entry, under a key
that covers every source, version, setting and processor feature that the code depends on.

Numba's objects come out of a pickle, which runs what it names. `gpu_adam.engines.compile.disk` hands over only what this user wrote, under
this name.
"""

from __future__ import annotations

import pickle
import platform
from functools import cache
from hashlib import sha256
from typing import Any

import llvmlite
import numba
import numpy as np
from llvmlite import binding as llvm
from numba.core import config
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.funcdesc import FunctionDescriptor
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

from . import disk as disk
from .fingerprint import digest, environment, settings, sources


class _DiskCache(_Cache):  # type: ignore[misc]
    """What Numba asks of a cache, for one kernel with one signature."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self._name = name
        self._options = repr(sorted(options.items()))

    def _entry(self, signature: Any, codegen: Any) -> str:
        # What numba-cuda sets up when it is imported reaches no code of a CPU. The settings come first, for they bring up to date what
        # magic_tuple says of the processor and its features.
        told = (*settings(config, without="CUDA_"), *environment("NUMBA_", "LLVMLITE_"))
        code = (self._name, repr(signature), self._options, repr(codegen.magic_tuple()))
        key = digest((*code, *told, _origin()))
        return f"{self._name}-{key}.numba"

    @property
    def cache_path(self) -> str:
        return disk.location()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        name = self._entry(sig, target_context.codegen())
        return disk.read(name, lambda content: _rebuilt(content, sig, target_context))

    def save_overload(self, sig: Any, data: Any) -> None:
        parts = data._reduce()
        disk.write(self._entry(sig, data.codegen), dumps((_digest_of_code(parts), parts)))

    def enable(self) -> None:
        """Always on."""

    def disable(self) -> None:
        """Always on."""

    def flush(self) -> None:
        """Entries are never renewed under the same key."""


def _rebuilt(content: bytes, signature: Any, target_context: Any) -> Any:
    """Numba's result of a compilation, out of what was kept of it.

    Raises:
        Exception: Of any kind, if it is something else.
    """
    kept, parts = pickle.loads(content)
    if kept != _digest_of_code(parts):
        # Looked at before it is loaded: LLVM ends the process where it finds an object file damaged.
        raise ValueError("its machine code is damaged")
    _, description, _, found, *_ = parts
    expected, _ = normalize_signature(signature)
    if not isinstance(description, FunctionDescriptor) or found.args != tuple(expected):
        raise TypeError(f"it is no kernel that takes {tuple(expected)}")
    return CompileResult._rebuild(target_context, *parts)


def _digest_of_code(parts: tuple[Any, ...]) -> bytes:
    """A digest of the machine code and the bitcode in Numba's result."""
    (_, _, (code, bitcode)), *_ = parts
    return sha256(b"%d:%s%s" % (len(code), code, bitcode)).digest()


@cache
def _origin() -> str:
    """A digest of the sources and of what compiles them, which stay as they are for as long as the process lives."""
    return digest((*sources(), *_versions()))


def _versions() -> tuple[str, ...]:
    """Of all that compiles a kernel."""
    return (
        numba.__version__,
        llvmlite.__version__,
        repr(llvm.llvm_version_info),
        np.__version__,
        platform.python_version(),
        platform.python_implementation(),
    )


def keep_on_disk(kernel: Any, name: str) -> None:
    """Give a Numba dispatcher this cache, before its first compilation."""
    kernel._cache = _DiskCache(name, kernel.targetoptions)
