"""Engines: each compiles kernels and launches them; none knows what an update rule computes.

``cpu`` runs Numba-compiled loops over threads, ``cupy`` the CUDA C++ kernels, ``numba`` the Numba CUDA kernels. All three take the
same launches and the same tables (`gpu_adam.plan`) and return the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..device import Device
from ..dtypes import Format
from ..errors import EngineUnavailable
from ..plan.launches import Launch
from ..plan.policy import Policy
from ..plan.prologue import Prologue
from ..process.uninterrupted import uninterruptedly

_HOMES = {"cpu": ".cpu", "cupy": ".cuda.cupy", "numba": ".cuda.numba"}

ENGINES = tuple(_HOMES)


Stage = Sequence[tuple[Callable[..., Any], Sequence[tuple[Any, ...]]]]
"""Functions, each with the arguments of one call or more; no call depends on another."""


CoefficientRows = Mapping[str, NDArray[Any]]
"""For each working format's name an array of rows of ``ROW_WORDS`` numbers, which the engine copies before it returns."""


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


@dataclass(frozen=True)
class SumArguments:
    """The sums of a gradient's rows that have the same number.

    Attributes:
        values: The address of ``count`` rows of ``width`` elements.
        values_format: Their format.
        working: The format of the sums.
        out: The address of ``capacity`` rows, in memory that the engine has allocated. The first of each run of equal numbers gets its sum,
            all others zeros.
        indices: The address of ``capacity`` int64, which get the number of each sum and -1 for all others.
        width: Elements of a row.
        count: Rows that are given.
        capacity: Rows that there is room for.
        order: The address of ``count`` int64: the places of the rows in ``values``, by their numbers, equal ones as they were given.
        ranked: The address of ``count`` int64: their numbers in that order.
        limit: Numbers outside ``[0, limit)`` are left out.
    """

    values: int
    values_format: Format
    working: Format
    out: int
    indices: int
    width: int
    count: int
    capacity: int
    order: int
    ranked: int
    limit: int

    @property
    def arguments(self) -> tuple[int, ...]:
        """What every kernel for it is given first."""
        sizes = (self.width, self.count, self.capacity)
        return (self.values, self.out, self.indices, *sizes, self.order, self.ranked, self.limit)


class Program(Protocol):
    """Launches of one device, compiled, their tables on the device."""

    is_native: bool
    """Whether `run` is one call of C code from its first change on: no handler of a signal then comes in between."""

    def run(self, coefficients: CoefficientRows | None, stream: int | None = None, then: Stage = ()) -> None:
        """Run every launch once, the prologue first where there is one.

        Args:
            coefficients: The rows that the launches refer to; ``None`` where the prologue computes them.
            stream: The CUDA stream to run on, as a handle; by default the array library's current one. While it is being captured
                in a graph, nothing is queued but the kernels and the gradients' addresses.
            then: What counts as a part of the run: functions of C code, called where nothing has failed.
        """

    def rebind(self, launch: int | None, role: int, stream: int | None = None) -> None:
        """Take up pointers that were changed in place.

        Args:
            launch: Whose ``table.pointers[role]``; ``None`` for the pointers of the prologue's table.
            role: Which role's.
            stream: As for `run`.
        """

    def take(self, present: NDArray[np.bool_], stream: int | None = None) -> None:
        """Take up which parameters the next run updates; what follows for the prologue's table was written into it.

        Args:
            present: For each parameter of the optimizer whether it is one of them.
            stream: As for `run`; it is not being captured.
        """

    def instruct(self, settings: NDArray[np.int64], stream: int | None = None) -> None:
        """Send the settings that the prologue goes by from the next run on."""

    def counts(self) -> NDArray[np.int64]:
        """The cohorts' step counts after all runs so far, for which it waits."""

    def recent_counts(self) -> tuple[NDArray[np.int64], int]:
        """Step counts of some moment that are known without waiting, and how many runs have begun since."""

    def measure(self, stream: int | None = None) -> None:
        """Run the prologue's first stage alone; only where gradients lie on several devices."""

    def gather(self, others: Sequence[Any], stream: int | None = None) -> None:
        """Bring the sums of the other devices' programs here, after they are measured; the next run's prologue adds them up."""

    def graph(self) -> Replay:
        """What `run` launches, as a graph.

        Raises:
            RuntimeError: On a CPU, which has no graphs.
        """

    @property
    def is_captured(self) -> bool:
        """Whether the caller has captured runs, whose graph may be replayed at any time: then the program must not go away."""

    def finish(self) -> None:
        """Have the host wait until all runs are done."""

    def ordered(self, stream: int | None = None) -> AbstractContextManager[None]:
        """A block: what is queued in it on the stream comes after the last run and before the next one.

        Args:
            stream: As for `run`; while it is being captured, nothing is done.
        """


class Replay(Protocol):
    """A captured graph."""

    def __call__(self, stream: int | None = None) -> None:
        """Launch it."""


class Engine(Protocol):
    """What the optimizer asks of an engine."""

    name: str
    kind: str
    """The kind of device whose memory it works in: ``"cpu"`` or ``"cuda"``."""
    policy: Policy

    def multiprocessors(self, device: Device) -> int:
        """Multiprocessors of a GPU, threads of a CPU."""

    def allocate(self, device: Device, nbytes: int) -> Memory:
        """New memory, all zero bytes."""

    def upload(self, memory: Memory, offset: int, data: NDArray[Any], stream: int | None = None) -> None:
        """Copy a contiguous host array to ``offset`` bytes into the memory; done when it returns."""

    def download(self, memory: Memory, offset: int, nbytes: int, stream: int | None = None) -> NDArray[np.uint8]:
        """Copy bytes to the host, after what the stream holds is done."""

    def coalesce(self, sums: SumArguments, stream: int | None = None) -> None:
        """Sum the rows of a gradient that have the same number; the stream is as for `Program.run`."""

    def capturing(self, device: Device, stream: int | None) -> bool:
        """Whether the stream is being captured in a CUDA graph."""

    def load(
        self,
        launches: Sequence[Launch],
        device: Device,
        prologue: Prologue | None = None,
        control: Memory | None = None,
        counts: NDArray[np.int64] | None = None,
        counts_memory: Memory | None = None,
    ) -> Program:
        """Compile what the launches need and bring their tables to the device.

        Args:
            launches: The updates.
            device: Where.
            prologue: What comes before them; ``None`` where the host gives the coefficients.
            control: The device's control words (`gpu_adam.kernels.prologue`), of all programs that it ever has.
            counts: The cohorts' step counts so far.
            counts_memory: Where on the device to keep them, together with other programs that count the same; by default by itself.
        """


def engine_named(name: str) -> Engine:
    """The engine called ``"cpu"``, ``"cupy"`` or ``"numba"``, the same object each time.

    Raises:
        ValueError: For another name.
        EngineUnavailable: If it cannot run here; the message names the remedy.
    """
    if name not in ENGINES:
        raise ValueError(f"engine={name!r}: use 'auto', {', '.join(map(repr, ENGINES))}")
    return _imported(name)


@uninterruptedly
def _imported(name: str) -> Engine:
    # By name and late: an engine imports its libraries, which take seconds or are not there, and some of which cannot be imported again
    # where an exception has come in between.
    engine: Engine = import_module(_HOMES[name], __name__).engine()
    return engine


def gpu_engine() -> Engine:
    """CuPy's engine where it can run, else Numba's.

    Raises:
        EngineUnavailable: If neither can; the message says why for each, or what both lack.
    """
    reasons = {}
    for name in ENGINES[1:]:
        try:
            return engine_named(name)
        except EngineUnavailable as error:
            reasons[name] = str(error)
    if len(set(reasons.values())) == 1:  # there is no GPU
        raise EngineUnavailable(reasons[name])
    raise EngineUnavailable(
        "no GPU engine can run here. " + "; ".join(f"{name}: {why}" for name, why in reasons.items())
    )
