"""What the CPU kernels are compiled with: the decorator, the formats of memory, and the functions that reach it by address."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from operator import mul
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from .half import round_bfloat16, round_float16, widen_bfloat16, widen_float16
from .intrinsics import load_at, store_at

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format

AHEAD = 4
"""How many rows of a matrix ahead memory is asked for, where rows are reached by number."""

STORAGE = {"float64": np.float64, "float32": np.float32, "float16": np.uint16, "bfloat16": np.uint16}


def entry(name: str) -> Callable[..., Any]:
    """Numba's decorator for the kernel called ``name`` itself, which Python calls, in threads of any kind side by side."""
    return _named(name, nogil=True, no_cfunc_wrapper=True)


def jit(name: str, **options: Any) -> Callable[..., Any]:
    """Numba's decorator for a function of the kernel called ``name``, or of all kernels that share what is called so.

    Nobody calls it from outside, so it has neither of the wrappers for that, which take a third of the compiler's time.
    """
    return _named(name, no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)


def _named(name: str, **options: Any) -> Callable[..., Any]:
    """Numba's decorator.

    With NumPy's error model a division by zero gives what IEEE 754 says. The function is named after what it is part of, because
    Numba makes symbols out of names and a counter: kernels that two processes compiled and a third loads from the disk would
    otherwise share symbols, and one of them run the other's code. Under one name there may only be one code.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        function.__qualname__ = f"{name}.{function.__name__}"
        return numba.njit(error_model="numpy", **options)(function)

    return decorate


@jit("convert")
def _to_float32(x):
    return np.float32(x)


@jit("convert")
def _to_float64(x):
    return np.float64(x)


@functools.cache
def loader(stored: str, working: Format) -> Callable[..., Any]:
    """From an element as it is stored, by the storage's name, to the working format."""
    convert = {"float32": _to_float32, "float64": _to_float64}[working.name]
    widen = {"float16": widen_float16, "bfloat16": widen_bfloat16}.get(stored)
    if widen is None:
        return convert

    @jit(f"{stored}_to_{working}")
    def load(word):
        return convert(widen(word))

    return load


def storer(stored: str) -> Callable[..., Any]:
    """From the working format to the element as it is stored, rounded once."""
    rounders = {"float64": _to_float64, "float32": _to_float32, "float16": round_float16, "bfloat16": round_bfloat16}
    return rounders[stored]


@functools.cache
def memory() -> SimpleNamespace:
    """What the text of `gpu_adam.kernels.prologue` asks of its target."""

    @jit("memory")
    def load_word(address):
        return load_at(address, np.int64)

    @jit("memory")
    def store_word(address, value):
        store_at(address, np.int64(value))

    @jit("memory")
    def load_number(address):
        return load_at(address, np.float64)

    @jit("memory")
    def store_number(address, value):
        store_at(address, np.float64(value))

    @jit("memory")
    def load_single(address):
        return np.float64(load_at(address, np.float32))

    @jit("memory")
    def store_single(address, value):
        store_at(address, np.float32(value))

    @jit("memory")
    def load_format(address, format):
        # In the order of `gpu_adam.dtypes.FORMATS`.
        if format == 0:
            return load_at(address, np.float64)
        if format == 1:
            return np.float64(load_at(address, np.float32))
        word = load_at(address, np.uint16)
        return np.float64(widen_float16(word)) if format == 2 else np.float64(widen_bfloat16(word))

    return SimpleNamespace(
        load_word=load_word,
        store_word=store_word,
        load_number=load_number,
        store_number=store_number,
        load_single=load_single,
        store_single=store_single,
        load_format=load_format,
        sqrt=math.sqrt,
        mul=mul,
    )
