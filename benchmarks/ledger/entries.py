"""The counting of one kernel: a row of the ledger."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gpu_adam.dtypes import FLOAT16, Format
from gpu_adam.engines.compile import nvrtc
from gpu_adam.kernels.abi import LEAF, LEAF_THREADS, PROLOGUE_THREADS
from gpu_adam.kernels.specialization import Kernel, UpdateKernel
from gpu_adam.plan.policy import GPU_POLICY

from .machines import ARCHITECTURES, MACHINES, Machine
from .model import WARP, Work, in_flight, predict, resident_blocks, wanted
from .paths import Graph, Step, count
from .sass import Code, disassemble
from .subjects import Subject

CHUNK = GPU_POLICY.max_chunk
"""Elements of a chunk: what a large list of tensors is cut into."""

WIDTH = 4096
"""Elements of a row."""

DIMENSIONS = 2
"""Of a strided tensor, such as a transposed matrix."""

CHAINS = {"flat": 1, "multi_tensor": 3, "strided": 3, "rows": 1, "measure": 3}
"""Loads that wait for each other: the coefficients; of a table, the chunk's tensor, the tensor's pointers, then its coefficients."""


@lru_cache(maxsize=4)
def compiled(kernel: Kernel, architecture: int) -> Code:
    """Its machine code; the last few are kept, because a prologue is asked for once for each format."""
    _, binary = nvrtc.build(nvrtc.files_of(kernel), [nvrtc.expression_of(kernel)], f"sm_{architecture}")
    return disassemble(binary)


WIDE, NARROW = r"(LDG|STG)\.E\.EF\.128.*", r"(LDG|STG)\.E\.EF(?!\.128).*"
HINTED_WIDE, HINTED_NARROW = (pattern.replace(r"\.EF", r"(\.EF)?", 1) for pattern in (WIDE, NARROW))
"""With another hint than the streaming one. The narrow ones are then those of table and coefficients too, the same on every path."""
MEASURED_WIDE, MEASURED_NARROW = r"LDG\.E\.128\.CONSTANT.*", r"LDG\.E\.(U16\.|64\.)?CONSTANT.*"


def fast_path(subject: Subject, graph: Graph) -> tuple[list[Step], int | None]:
    """Its fast path, and the loop that goes over the elements, if there is one."""
    if subject.measured:
        return _measuring(subject.measured, graph)
    if subject.family == "strided":
        # Element by element: the streaming hint tells the data from the table.
        wide = r"(LDG|STG)\.E\.EF.*"
        path = graph.fast_path(wide, "none", looping=True)
    else:
        hinted = subject.kernel.hint != "streaming"  # type: ignore[union-attr]
        wide, narrow = (HINTED_WIDE, HINTED_NARROW) if hinted else (WIDE, NARROW)
        path = graph.fast_path(wide, narrow)
    data = [step for step in path if re.fullmatch(wide, step.instruction.opcode) and step.works]
    return path, data[0].loops[-1] if data and data[0].loops else None


def _measuring(format: Format, graph: Graph) -> tuple[list[Step], int | None]:
    # Each format has a loop of its own, known by what it does with eight vectors of 16 bytes: how many elements it adds, and how it
    # widens them.
    for loop, blocks in graph.loops.items():
        opcodes = [graph.instructions[k].opcode for block in blocks for k in graph.blocks[block]]
        if sum(opcode.startswith("LDG.E.128.CONSTANT") for opcode in opcodes) != 8:
            continue
        path = graph.fast_path(MEASURED_WIDE, MEASURED_NARROW, within=loop)
        inside = Counter(step.instruction.opcode for step in path if loop in step.loops)
        halves = any(opcode.startswith("HADD2.F32") for opcode in inside)
        if inside["DFMA"] == 8 * 16 // format.itemsize and (format.itemsize != 2 or halves == (format is FLOAT16)):
            return path, loop
    raise LookupError(f"no loop measures {format}")


def work_of(subject: Subject, code: Code, path: list[Step], loop: int | None) -> Work:
    """What the kernel does, counted on its fast path."""
    inside = [step for step in path if loop is None or loop in step.loops]
    turn = count(inside)
    turn += _repeated(inside, loop, DIMENSIONS - 1)
    setup = Counter() if loop is None else count(step for step in path if loop not in step.loops)
    kernel = subject.kernel
    if isinstance(kernel, UpdateKernel):
        kind = kernel.specialization
        strided = kind.family == "strided"
        elements = 4 * kernel.vectors if strided else kind.lanes * kernel.vectors
        stretch = {"flat": elements * kernel.threads, "rows": WIDTH}.get(kind.family, CHUNK)
        if kernel.persistent:
            stretch = CHUNK
        threads, read, written = kernel.threads, kind.bytes_read, kind.bytes_written
        turns = stretch / (elements * threads)
    else:
        assert subject.measured is not None
        threads, read, written = PROLOGUE_THREADS, subject.measured.itemsize, 0
        elements = 8 * 16 // read
        turns = LEAF / LEAF_THREADS / elements
    return Work(
        threads=threads,
        registers=code.registers,
        shared=code.shared,
        elements=elements,
        turns=turns,
        read=read,
        written=written,
        asked=elements * read,
        setup=dict(sorted(setup.items())),
        turn=dict(sorted(turn.items())),
        chain=CHAINS[subject.family],
    )


def _repeated(steps: list[Step], loop: int | None, more: int) -> Counter[str]:
    """What loops within the loop add: they go over a tensor's dimensions."""
    once = count(step for step in steps if step.loops and step.loops[-1] != loop)
    return Counter({kind: number * more for kind, number in once.items()})


def strays(subject: Subject, path: list[Step]) -> int:
    """What a fast path should have none of: calls of slow paths, and where vectors are whole, accesses of single elements."""
    calls = sum(step.instruction.base == "CALL" and step.instruction.target is None for step in path)
    narrow = "none" if subject.family == "strided" else MEASURED_NARROW if subject.measured else NARROW
    return calls + sum(step.works and re.fullmatch(narrow, step.instruction.opcode) is not None for step in path)


def entry(subject: Subject, architecture: int) -> dict[str, Any]:
    """A row of the ledger, for JSON."""
    code = compiled(subject.kernel, architecture)
    path, loop = fast_path(subject, Graph(code.instructions))
    work = work_of(subject, code, path, loop)
    blocks = resident_blocks(architecture, work.threads, work.registers, work.shared)
    return {
        "kernel": subject.name,
        "family": subject.family,
        "architecture": architecture,
        "compiler": code.compiler,
        "registers": code.registers,
        "stack": code.stack,
        "shared": code.shared,
        "threads": work.threads,
        "blocks": blocks,
        "occupancy": round(blocks * work.threads / WARP / ARCHITECTURES[architecture].warps, 3),
        "elements": work.elements,
        "turns": work.turns,
        "read": work.read,
        "written": work.written,
        "in_flight": in_flight(work, architecture),
        "strays": strays(subject, path),
        "setup": work.setup,
        "turn": work.turn,
        "predictions": {
            machine.name: predicted(work, machine) for machine in MACHINES if machine.architecture == architecture
        },
    }


def recorded(row: Mapping[str, Any]) -> Work:
    """What a row's kernel does."""
    names = ("threads", "registers", "shared", "elements", "turns", "read", "written", "setup", "turn")
    asked = row["in_flight"] // (row["blocks"] * row["threads"])
    return Work(**{name: row[name] for name in names}, asked=asked, chain=CHAINS[row["family"]])


def predicted(work: Work, machine: Machine) -> dict[str, Any]:
    """A prediction, for JSON."""
    found = predict(work, machine)
    second, behind = found.next
    return {
        "nanoseconds": float(f"{found.nanoseconds:.4g}"),
        "binds": found.binds,
        "share": round(found.share, 3),
        "of_copy": round(found.of_copy, 3),
        "next": [second, round(behind, 2)],
        "in_flight_to_wanted": round(in_flight(work, machine.architecture) / wanted(machine), 1),
    }
