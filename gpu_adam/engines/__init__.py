"""Engines: each compiles kernels and launches them; none knows what an update rule computes.

``cpu`` runs Numba-compiled loops over threads, ``cupy`` the CUDA C++ kernels, ``numba`` the Numba CUDA kernels. All three take the
same launches and the same tables (`gpu_adam.plan`) and return the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..layout import Device
from ..plan import Launch, Policy

ENGINES = ("cpu", "cupy", "numba")

Coefficients = Mapping[str, NDArray[Any]]
"""For each working format's name an array of rows of ``ROW_WORDS`` numbers, which the engine copies before it returns."""


class EngineUnavailable(RuntimeError):
    """An engine cannot run on this machine; the message says why and names the remedy."""


class CompileError(RuntimeError):
    """A compiler or linker refused a kernel; the message carries what it said."""


@dataclass(frozen=True, eq=False)
class Memory:
    """A stretch of a device's memory that lives as long as ``owner`` does.

    Attributes:
        device: Where it is.
        address: Its first byte, a multiple of 256.
        nbytes: Its size.
        owner: What keeps it alive.
    """

    device: Device
    address: int
    nbytes: int
    owner: Any


class Program(Protocol):
    """Launches of one device, compiled, their tables on the device."""

    def run(self, coefficients: Coefficients, stream: int | None = None) -> None:
        """Run every launch once.

        Args:
            coefficients: The rows that the launches refer to.
            stream: The CUDA stream to run on, as a handle; by default the array library's current one.
        """

    def rebind(self, launch: int, role: int, stream: int | None = None) -> None:
        """Take up the pointers of one role again, after ``launches[launch].table.pointers[role]`` was changed in place."""


class Engine(Protocol):
    """What the optimizer asks of an engine."""

    name: str
    kind: str
    """The kind of device whose memory it works in: ``"cpu"`` or ``"cuda"``."""
    policy: Policy

    def processors(self, device: Device) -> int:
        """Multiprocessors of a GPU, threads of a CPU."""

    def allocate(self, device: Device, nbytes: int) -> Memory:
        """New memory, all zero bytes."""

    def upload(self, memory: Memory, offset: int, data: NDArray[Any], stream: int | None = None) -> None:
        """Copy a contiguous host array to ``offset`` bytes into the memory; done when it returns."""

    def download(self, memory: Memory, offset: int, nbytes: int, stream: int | None = None) -> NDArray[np.uint8]:
        """Copy bytes to the host, after what the stream holds is done."""

    def check_stream(self, device: Device, stream: int | None) -> None:
        """Nothing, if a step may run on this stream now.

        Raises:
            RuntimeError: If the stream is being captured in a CUDA graph.
        """

    def load(self, launches: Sequence[Launch], device: Device) -> Program:
        """Compile what the launches need and bring their tables to the device."""


def engine_named(name: str) -> Engine:
    """The engine called ``"cpu"``, ``"cupy"`` or ``"numba"``, the same object each time.

    Raises:
        ValueError: For another name.
        EngineUnavailable: If it cannot run here; the message names the remedy.
    """
    if name not in ENGINES:
        raise ValueError(f"engine={name!r}: use 'auto', {', '.join(map(repr, ENGINES))}")
    # Imported by name and late: an engine imports its libraries, which take seconds or are not there.
    engine: Engine = import_module(f".{name}", __name__).engine()
    return engine


def gpu_engine() -> Engine:
    """CuPy's engine where it can run, else Numba's.

    Raises:
        EngineUnavailable: If neither can; the message says why for each.
    """
    reasons = []
    for name in ENGINES[1:]:
        try:
            return engine_named(name)
        except EngineUnavailable as error:
            reasons.append(f"{name}: {error}")
    raise EngineUnavailable("no GPU engine can run here. " + "; ".join(reasons))
