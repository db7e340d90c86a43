"""From counts to times: occupancy, and the bounds of which the largest is the predicted time. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .machines import ARCHITECTURES, REGISTER_FILE, SCHEDULERS, Machine

WARP = 32

DEPENDENT = 4
"""Cycles from an instruction to the next that needs its value. A path is taken to be one chain of them, which errs on the long side."""


def resident_blocks(architecture: int, threads: int, registers: int, shared: int = 0) -> int:
    """Blocks that a multiprocessor keeps at once.

    Args:
        architecture: Ten times the compute capability.
        threads: Threads of a block.
        registers: Registers of a thread.
        shared: Bytes of shared memory of a block.

    >>> resident_blocks(90, 256, 40)
    6
    >>> resident_blocks(75, 256, 40)
    4
    """
    limits = ARCHITECTURES[architecture]
    of_warp = -(-registers * WARP // 256) * 256
    # Each scheduler has a quarter of the registers, and a warp's must be its own scheduler's.
    warps = REGISTER_FILE // SCHEDULERS // of_warp * SCHEDULERS
    taken = shared + limits.reserved * 1024
    by_shared = limits.shared * 1024 // taken if taken else limits.blocks
    return min(min(warps, limits.warps) // -(-threads // WARP), limits.blocks, by_shared)


@dataclass(frozen=True)
class Work:
    """What a kernel does, by thread.

    Attributes:
        threads: Threads of a block.
        registers: Of a thread.
        shared: Bytes of shared memory of a block.
        elements: Elements that a thread handles together.
        turns: How often it does so.
        read: Bytes read for one element.
        written: Bytes written for one element.
        asked: Bytes that a thread asks for before it waits for the first.
        setup: Its instructions beside the turns, by kind.
        turn: Its instructions in one turn, by kind.
        chain: Loads that wait for each other before the first turn's: coefficients and table, which come out of the L2 cache.
    """

    threads: int
    registers: int
    shared: int
    elements: int
    turns: float
    read: int
    written: int
    asked: int
    setup: Mapping[str, int]
    turn: Mapping[str, int]
    chain: int

    @property
    def per_element(self) -> dict[str, float]:
        """Instructions for one element, by kind."""
        kinds = dict.fromkeys([*self.turn, *self.setup])
        return {kind: (self.turn.get(kind, 0) + self.setup.get(kind, 0) / self.turns) / self.elements for kind in kinds}

    @property
    def moved(self) -> int:
        """Bytes read and written for one element."""
        return self.read + self.written


def in_flight(work: Work, architecture: int) -> int:
    """Bytes that a multiprocessor's threads can have asked for at once."""
    blocks = resident_blocks(architecture, work.threads, work.registers, work.shared)
    return blocks * work.threads * work.asked


def wanted(machine: Machine) -> float:
    """Bytes that each multiprocessor must have asked for at once, for the memory to be kept busy: bandwidth times latency (Little).

    >>> from .machines import MACHINES
    >>> [round(wanted(machine) / 1024, 1) for machine in MACHINES]
    [10.6, 15.6, 22.4, 4.2, 38.0]
    """
    return machine.bandwidth * machine.copied * machine.latency / machine.processors


def bounds(work: Work, machine: Machine) -> dict[str, float]:
    """ns that an element takes at least, by what bounds it, on the whole GPU.

    ``memory``: its bytes at a copy's speed. ``issue``: its instructions, one a cycle for each scheduler. ``fp32``, ``fp64``, ``integer``,
    ``special``: its instructions on these lanes. ``latency``: the threads that fit, each waiting out its loads and its own instructions.
    """
    kinds = work.per_element
    lanes = machine.processors * machine.clock
    multiply = kinds.get("multiply", 0) * (2 if machine.fp32 == 128 else 1)
    widen = kinds.get("widen", 0)
    double = kinds.get("fp64", 0) + (widen if machine.widening == "fp64" else 0)
    special = kinds.get("special", 0) + kinds.get("convert", 0) + (widen if machine.widening == "special" else 0)
    blocks = resident_blocks(machine.architecture, work.threads, work.registers, work.shared)
    resident = machine.processors * blocks * work.threads
    steps = DEPENDENT / machine.clock
    alone = sum(work.setup.values()) * steps + work.chain * machine.second_level
    turn = sum(work.turn.values()) * steps + machine.latency
    return {
        "memory": work.moved / (machine.bandwidth * machine.copied),
        "issue": sum(kinds.values()) / (lanes * SCHEDULERS * WARP),
        "fp32": (kinds.get("fp32", 0) + kinds.get("half", 0) + multiply) / (lanes * machine.fp32),
        "fp64": double / (lanes * machine.fp64),
        "integer": kinds.get("integer", 0) / (lanes * machine.integer),
        "special": special / (lanes * machine.special),
        "latency": (alone + work.turns * turn) / (work.turns * work.elements * resident),
    }


@dataclass(frozen=True)
class Prediction:
    """A kernel's time on a GPU.

    Attributes:
        nanoseconds: Of one element, where there are many.
        binds: The bound that it is.
        share: The share of the memory's bandwidth that it reaches.
        of_copy: The same over what a copy reaches.
        next: The second largest bound, over the largest: how near something else is.
    """

    nanoseconds: float
    binds: str
    share: float
    of_copy: float
    next: tuple[str, float]


def predict(work: Work, machine: Machine) -> Prediction:
    """The largest of the bounds."""
    ranked = sorted(bounds(work, machine).items(), key=lambda item: -item[1])
    (binds, time), (second, behind) = ranked[:2]
    share = work.moved / time / machine.bandwidth
    return Prediction(time, binds, share, share / machine.copied, (second, behind / time))


def idle_tail(work: Work, machine: Machine, waves: float) -> float:
    """The share of a step that the last chunks may take alone, while most multiprocessors have run out of work.

    Where each multiprocessor finds ``waves`` chunks of equal size, one left over costs at most its own duration, which is set by latency:
    over the duration of all, this does not depend on the chunk's size.
    """
    steps = DEPENDENT / machine.clock
    turn = sum(work.turn.values()) * steps + machine.latency
    block = work.threads * work.elements * work.moved
    return turn * machine.bandwidth * machine.copied / (machine.processors * waves * block)
