"""Generated updates: memory with guards around it, tasks over it, coefficients, and the comparison of two engines' results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_adam.device import Device
from gpu_adam.dtypes import FLOAT32, FLOAT64, Format
from gpu_adam.engines import Engine
from gpu_adam.kernels import abi as row
from gpu_adam.kernels.abi import ROLES
from gpu_adam.kernels.rules import adam
from gpu_adam.kernels.specialization import Specialization
from gpu_adam.plan.launches import Launch, Task
from gpu_adam.plan.policy import GPU_POLICY, Policy
from gpu_adam.plan.scheduling import launches_of
from gpu_adam.strides import Walk, walk
from tests.support.shipped import ADAM, AMSGRAD

GUARD = 64
"""Bytes before and after a stream that no kernel may change."""

DEVICE = Device("cuda")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a case.

    Attributes:
        size: The number of elements.
        offsets: For each of ``ROLES``, elements by which it begins beyond a 16-byte boundary.
        walk: The strides; ``None`` for one element after the other.
        width: Where the gradient is of some rows of a matrix, the elements of a row.
        height: The matrix's rows.
        indices: The numbers of the gradient's rows.
    """

    size: int
    offsets: tuple[int, ...] = (0,) * len(ROLES)
    walk: Walk | None = None
    width: int = 0
    height: int = 0
    indices: tuple[int, ...] = ()


@dataclass
class Memory:
    """The memory of one tensor's streams, as guarded byte arrays, and the address of each first element."""

    formats: tuple[Format | None, ...]
    indices: NDArray[np.int64]
    blocks: list[NDArray[np.uint8] | None] = field(default_factory=list)
    pointers: list[int] = field(default_factory=list)

    def add(self, format: Format | None, block: NDArray[np.uint8] | None, first: int) -> None:
        self.blocks.append(block)
        self.pointers.append(0 if block is None else block.ctypes.data + first)


@dataclass(frozen=True)
class Case:
    """What is updated, in memory that each engine gets a copy of.

    Attributes:
        kind: The kernel's formats and rule; its family is that of the flat case only, else the walks decide.
        tensors: The tensors.
        seed: Of all values.
        guard: Bytes of guard; 0 under AddressSanitizer, which has its own.
        rows: Rows of coefficients.
        tame: Whether the values are ordinary numbers.
        skip: Whether the step is one that changes nothing.
    """

    kind: Specialization
    tensors: tuple[Tensor, ...]
    seed: int
    guard: int = GUARD
    policy: Policy = GPU_POLICY
    rows: int = 3
    tame: bool = False
    skip: bool = False

    def memory(self) -> list[Memory]:
        """Fresh memory with the case's values."""
        rng = np.random.default_rng(self.seed)
        kind = self.kind
        formats: tuple[Format | None, ...] = (
            kind.param,
            kind.grad,
            *(kind.working if s < kind.states else None for s in range(3)),
            FLOAT32 if kind.master else None,
            kind.working if kind.average else None,
        )
        memories = []
        for tensor in self.tensors:
            memory = Memory(formats, np.array(tensor.indices, np.int64))
            for role, format in enumerate(formats):
                if format is None:
                    memory.add(None, None, 0)
                    continue
                low, high = _reach(tensor, role)
                block, base = _aligned(high - low + 1, format, tensor.offsets[role], self.guard)
                values(
                    rng,
                    format,
                    block[base : base + (high - low + 1) * format.itemsize],
                    self.tame,
                    # Of Adam the first moment alone has a sign; of other rules any state may be the square of something.
                    role in (3, 4) or (role == 2 and kind.rule not in (ADAM, AMSGRAD)),
                )
                memory.add(format, block, base - low * format.itemsize)
            memories.append(memory)
        return memories

    def launches(self, memories: Sequence[Memory], processors: int = 4, device: Device = DEVICE) -> tuple[Launch, ...]:
        """The plan over such memory."""
        kind = self.kind
        flat = kind.family == "flat"
        lanes = 16 // kind.param.itemsize
        tasks = [
            Task(
                index=k,
                label=f"tensor {k}",
                size=tensor.size,
                phase=0 if flat else memory.pointers[0] // kind.param.itemsize % lanes,
                walk=tensor.walk or Walk((tensor.size,), (1,), (1,)),
                row=k % self.rows,
                flat=flat,
                param=kind.param,
                grad=kind.grad,
                master=kind.master,
                rule=kind.rule,
                pointers=tuple(memory.pointers),
                average=kind.average,
                width=tensor.width,
                indices=memory.indices.ctypes.data,
            )
            for k, (tensor, memory) in enumerate(zip(self.tensors, memories, strict=True))
        ]
        return launches_of(tasks, device, processors, self.policy)

    def coefficients(self) -> dict[str, NDArray[Any]]:
        """Rows for both working formats, the same settings in each: rows differ in decay, sign and magnitudes."""
        rng = np.random.default_rng(self.seed + 1)
        rows = np.zeros((self.rows, row.ROW_WORDS))
        choices: dict[int, Any] = {
            row.SCALE: lambda: rng.choice([1.0, -1.0, 1.0, 0.37]),
            row.L2: lambda: rng.integers(0, 2),
            row.DECOUPLED: lambda: rng.integers(0, 2),
            row.WEIGHT_DECAY: lambda: rng.choice([0.0, 0.01, 0.5]),
            row.SHRINK: lambda: rng.choice([0.0, -1e-4, -0.1]),
            row.SKIP: lambda: float(self.skip),
            row.AVERAGE: lambda: rng.choice([1.0, 0.5, 1e-4, rng.random()]),
            adam.W1: lambda: rng.choice([0.1, 1.0, 0.5, rng.random()]),
            adam.W2: lambda: rng.choice([1e-3, 1.0, rng.random()]),
            adam.R2: lambda: rng.choice([1.0, 31.6, 1 + rng.random()]),
            adam.EPS: lambda: rng.choice([1e-8, 0.0, 1e-3]),
            adam.A: lambda: rng.choice([-1e-3, 0.0, -0.1, -rng.random()]),
        }
        # What another rule has there, in another order.
        own = {
            word: lambda: rng.choice([0.0, 1.0, -0.1, 1e-8, rng.random()])
            for word in range(row.FIRST_OWN, row.ROW_WORDS)
        }
        choices = choices if self.kind.rule in (ADAM, AMSGRAD) else {**choices, **own}
        for one in rows:
            for word, choose in choices.items():
                one[word] = choose()
        return {"float32": rows.astype(np.float32), "float64": rows}


def run(case: Case, engine: Engine, steps: int = 1) -> list[Memory]:
    """The memory after some steps on an engine."""
    memories = case.memory()
    program = engine.load(case.launches(memories), device_of(engine))
    for _ in range(steps):
        program.run(case.coefficients())
    # While the program still lives: its memory is being read.
    finish(engine)
    return memories


def device_of(engine: Engine) -> Device:
    """The first device of an engine's kind."""
    return Device(engine.kind)


def finish(engine: Engine) -> None:
    """Wait for a host GPU's streams; the CPU has none."""
    getattr(engine, "finish", lambda: None)()


def assert_same(got: Sequence[Memory], expected: Sequence[Memory]) -> None:
    """Every byte is equal, guards included; where an element is NaN, any NaN is equal."""
    for k, (one, other) in enumerate(zip(got, expected, strict=True)):
        for role, format, a, b in zip(ROLES, one.formats, one.blocks, other.blocks, strict=True):
            if format is None or a is None or b is None:
                continue
            a, b = a.view(format.dtype), b.view(format.dtype)
            bits = f"u{format.itemsize}"
            with np.errstate(invalid="ignore"):  # signalling NaNs are among the values
                differ = (a.view(bits) != b.view(bits)) & ~(np.isnan(a) & np.isnan(b))
            where = np.flatnonzero(differ)
            assert not where.size, (
                f"tensor {k}, {role} ({format}): {where.size} elements differ, first at {where[0]} of {len(a)} with guards: "
                f"{a[where[0]]!r} ({a.view(bits)[where[0]]:#x}), not {b[where[0]]!r} ({b.view(bits)[where[0]]:#x})"
            )


def strided(rng: np.random.Generator, shape: Sequence[int]) -> Walk:
    """A walk over a parameter and a gradient that are each permuted, stretched and turned round in ways of their own."""

    def strides() -> list[int]:
        out, step = [0] * len(shape), 1
        for d in rng.permutation(len(shape)):
            step *= int(rng.choice([1, 1, 2, 3]))
            out[d] = step * int(rng.choice([1, 1, -1]))
            step *= shape[d]
        return out

    return walk(shape, strides(), strides())


def some_rows(rng: np.random.Generator, width: int, height: int, count: int, offsets: Sequence[int] = ()) -> Tensor:
    """A gradient of ``count`` rows of a matrix, of which some have no number."""
    indices = np.where(rng.random(count) < 0.2, -1, rng.permutation(height)[:count])
    return Tensor(
        count * width, tuple(offsets) or (0,) * len(ROLES), None, width, height, tuple(int(index) for index in indices)
    )


def values(rng: np.random.Generator, format: Format, out: NDArray[np.uint8], tame: bool, positive: bool) -> None:
    """Fill bytes with elements of a format: ordinary numbers, and unless ``tame`` every kind of special one."""
    n = len(out) // format.itemsize
    x = rng.normal(size=n) * 10.0 ** rng.integers(-6, 3, n)
    if positive and tame:
        x = np.abs(x)
    with np.errstate(over="ignore"):
        elements = x.astype(format.dtype)
        if not tame:
            wild = rng.random(n) < 0.4
            chosen = rng.choice(_specials(format), n)
            elements = np.where(wild, chosen, elements)
            bits = rng.integers(0, 256, out.shape, dtype=np.uint8).view(format.dtype)
            elements = np.where(rng.random(n) < 0.2, bits, elements)
    out[:] = elements.view(np.uint8)


def _specials(format: Format) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        big = np.array(
            [3.38e38, 3.3961775e38, 3.4028235e38, 65504.0, 65519.0, 65520.0, 1e19, 1e-19, 1e-38, 1e-45, 6e-8, 3e-8, 1.0]
        )
        # Halfway between two neighbours in bfloat16 and in float16, and just beside it.
        ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8 + 2**-23, 2**-24, 2**-25])
        numbers = np.concatenate([big, ties, [0.0, np.inf, np.nan, 5e-324 if format is FLOAT64 else 0.0]])
        return np.concatenate([numbers, -numbers]).astype(format.dtype)


def _reach(tensor: Tensor, role: int) -> tuple[int, int]:
    """The lowest and the highest element that a stream touches, counted from its first."""
    if tensor.walk is None or role > 1:
        return 0, (tensor.height * tensor.width if tensor.width and role != 1 else tensor.size) - 1
    strides = tensor.walk.param if role == 0 else tensor.walk.grad
    ends = [(n - 1) * s for n, s in zip(tensor.walk.shape, strides, strict=True)]
    return sum(e for e in ends if e < 0), sum(e for e in ends if e > 0)


def _aligned(count: int, format: Format, offset: int, guard: int) -> tuple[NDArray[np.uint8], int]:
    """Guarded bytes for ``count`` elements, and where these begin: ``offset`` elements beyond a 16-byte boundary.

    Without guards the allocation ends where the elements end, so that AddressSanitizer sees one byte too many.
    """
    base = guard + offset * format.itemsize
    block = np.full(base + count * format.itemsize + guard, 0xA5, np.uint8)
    assert block.ctypes.data % 16 == 0, "malloc aligns to 16 bytes"
    return block, base
