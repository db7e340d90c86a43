"""The CPU engine's kernels, compiled by Numba at first use or taken from the disk."""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

import numpy as np

from ..dtypes import Format
from ..errors import CompileError, EngineUnavailable
from ..kernels.rules.rule import Rule
from ..kernels.specialization import Specialization
from ..process.uninterrupted import uninterruptedly


@functools.cache
@uninterruptedly
def compiled(kind: Specialization) -> Any:
    """The compiled kernel of a specialization, from the disk where it was compiled before."""
    kernels = _kernels("families")
    return _kept(kernels.make_kernel(kind), kind.name, kernels.signature(kind), kind.rule)


@functools.cache
@uninterruptedly
def measuring() -> Any:
    """The compiled kernel that measures gradients."""
    kernels = _kernels("measure")
    return _kept(kernels.make_measure(), "measure", kernels.MEASURE)


@functools.cache
@uninterruptedly
def finishing(rule: Rule) -> Any:
    """The compiled kernel that computes the rows, for the rules that have this one's coefficients."""
    kernels = _kernels("prologue")
    return _kept(kernels.make_finish(rule), f"{rule.symbol}_finish", kernels.FINISH, rule)


@functools.cache
@uninterruptedly
def coalescing(values: Format, working: Format) -> Any:
    """The compiled kernel that sums rows."""
    kernels = _kernels("sparse")
    return _kept(kernels.make_coalesce(values, working), f"coalesce_{values}_{working}", kernels.COALESCE)


def _kernels(module: str) -> Any:
    """A module of kernels, which imports Numba.

    Raises:
        EngineUnavailable: If Numba cannot be imported: it is not there, or refuses the NumPy that is.
    """
    # Numba takes half a second to import, so it waits for the first step.
    try:
        return import_module(f"gpu_adam.kernels.cpu.{module}")
    except (ImportError, AttributeError) as error:
        raise EngineUnavailable(
            f"Numba cannot be imported beside NumPy {np.__version__} ({error}): pip install --upgrade gpu_adam numba"
        ) from error


def _kept(kernel: Any, name: str, signature: tuple[Any, ...], rule: Rule | None = None) -> Any:
    """A kernel, compiled or from the disk.

    Raises:
        CompileError: If Numba refuses a rule from elsewhere; the message carries what it said.
    """
    from .compile.numba import keep_on_disk

    if not hasattr(kernel, "compile"):
        raise EngineUnavailable("NUMBA_DISABLE_JIT is set, without which the CPU engine cannot run: unset it")
    if rule is None or rule.is_shipped:
        keep_on_disk(kernel, name)
        kernel.compile(signature)
        return kernel
    try:
        kernel.compile(signature)
    except Exception as error:
        raise CompileError(f"Numba could not compile the rule {rule.name!r}: {error}") from error
    return kernel
