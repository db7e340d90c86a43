"""Tensors in one stretch of memory, updated by any engine, and compared to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_adam.device import Device
from gpu_adam.dtypes import FLOAT32, Format
from gpu_adam.engines import Engine, engine_named
from gpu_adam.kernels.abi import AVERAGE, DECOUPLED, L2, ROW_WORDS, SCALE, SHRINK, VECTOR_BYTES, WEIGHT_DECAY
from gpu_adam.kernels.rules.adam import EPS, R2, W1, W2, A
from gpu_adam.plan.launches import Launch, Task
from gpu_adam.plan.policy import Policy
from gpu_adam.plan.scheduling import launches_of
from gpu_adam.strides import Walk, walk
from tests.support.shipped import RULES, formats_of
from tests.support.tensor_kinds import Kind

GPU, CPU = Device("cuda", 0), Device("cpu")
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 255, 256, 257, 1023, 65_535, 65_537)
SPECIAL = (0.0, -0.0, 1e-45, -1e-40, 6e-8, 1.17e-38, 3.3e38, 65_504.0, np.inf, -np.inf, np.nan, 1.0, -1.0)


KINDS = [
    Kind(param, grad, master, rule, average)
    for rule in RULES
    for param, grad, master in formats_of(RULES[rule], "multi_tensor")
    for average in ((False, True) if param is grad else (False,))
]


class Arena:
    """Tensors in one stretch of memory, the same on any engine: places are offsets, and numbers come from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._image = bytearray()
        self._streams: list[tuple[int, Format, int]] = []
        self._tasks: list[tuple[dict[str, Any], tuple[int, ...]]] = []

    def add(
        self, kind: Kind, journey: Walk, *, param_off: int = 0, grad_off: int = 0, row: int = 0, flat: bool = False
    ) -> None:
        size = int(np.prod(journey.shape, dtype=np.int64))
        phase = param_off % (VECTOR_BYTES // kind.param.itemsize) if journey.contiguous and not flat else 0
        working, states = kind.working, kind.states
        places = [
            self._stream(kind.param, journey.shape, journey.param, param_off),
            self._stream(kind.grad, journey.shape, journey.grad, grad_off),
            *(self._stream(working, (size,), (1,), phase, positive=s > 0) for s in range(states)),
            *(-1,) * (3 - states),
            self._stream(FLOAT32, (size,), (1,), phase) if kind.master else -1,
            self._stream(working, (size,), (1,), phase) if kind.average else -1,
        ]
        about = {
            "index": len(self._tasks), "label": str(kind), "size": size, "phase": phase, "walk": journey, "row": row, "flat": flat,
            "param": kind.param, "grad": kind.grad, "master": kind.master, "average": kind.average, "rule": RULES[kind.rule],
        }  # fmt: skip
        self._tasks.append((about, tuple(places)))

    def _stream(
        self, format: Format, sizes: Sequence[int], strides: Sequence[int], off: int, *, positive: bool = False
    ) -> int:
        reach = [(n - 1) * stride for n, stride in zip(sizes, strides, strict=True)]
        low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
        count = high - low + 1
        numbers = self._random.normal(size=count) * 10.0 ** self._random.integers(-8, 3, count)
        special = self._random.random(count) < 0.05
        numbers[special] = self._random.choice(SPECIAL, int(special.sum()))
        begin = len(self._image) + off * format.itemsize
        with np.errstate(all="ignore"):
            stored = (np.abs(numbers) if positive else numbers).astype(format.dtype)
        self._image += bytes(off * format.itemsize) + stored.tobytes()
        # A gap behind each stream that must stay zero, and a boundary for the next.
        self._image += bytes(64 + -len(self._image) % 64)
        self._streams.append((begin, format, count))
        return begin - low * format.itemsize

    def launches(self, address: int, device: Device, engine: Engine, policy: Policy) -> tuple[Launch, ...]:
        tasks = [
            Task(**about, pointers=tuple(address + place if place >= 0 else 0 for place in places))
            for about, places in self._tasks
        ]
        return launches_of(tasks, device, engine.multiprocessors(device), policy)

    def run(self, engine: Engine, device: Device, steps: int, rows: int = 1, policy: Policy | None = None) -> Any:
        """The memory after some steps."""
        memory = engine.allocate(device, len(self._image))
        engine.upload(memory, 0, np.frombuffer(bytes(self._image), np.uint8))
        program = engine.load(self.launches(memory.address, device, engine, policy or engine.policy), device)
        for step in range(steps):
            program.run(coefficients(step, rows))
        return engine.download(memory, 0, len(self._image))

    def compare(self, found: Any, expected: Any) -> None:
        """Every bit, but for those of a NaN, whose payload and sign IEEE 754 leaves open."""
        for number, (begin, format, count) in enumerate(self._streams):
            a, b = (x[begin : begin + count * format.itemsize].view(format.dtype) for x in (found, expected))
            bits = f"u{format.itemsize}"
            with np.errstate(all="ignore"):
                both_nan = (a != a) & (b != b)
            wrong = np.flatnonzero((a.view(bits) != b.view(bits)) & ~both_nan)
            assert not wrong.size, f"stream {number}: element {wrong[0]} is {a[wrong[0]]!r}, not {b[wrong[0]]!r}"
            found[begin : begin + a.nbytes] = expected[begin : begin + a.nbytes] = 0
        np.testing.assert_array_equal(found, expected, "something beside the tensors was written")


def coefficients(step: int, rows: int = 1) -> dict[str, Any]:
    numbers = np.zeros((rows, ROW_WORDS))
    k = np.arange(rows)
    numbers[:, SCALE] = np.where(k % 2, -1, 1)
    numbers[:, L2] = k % 3 == 1
    numbers[:, DECOUPLED] = k % 3 == 2
    numbers[:, [WEIGHT_DECAY, SHRINK, AVERAGE]] = 0.01, -1e-5, 0.25
    numbers[:, [W1, W2, R2, EPS]] = 0.1, 0.001, 1 / np.sqrt(1 - 0.999 ** (step + 1)), 1e-8
    numbers[:, A] = -1e-3 / (1 - 0.9 ** (step + 1))
    return {"float64": numbers, "float32": numbers.astype(np.float32)}


def agree(engine: Engine, arena: Arena, *, steps: int = 3, rows: int = 1, policy: Policy | None = None) -> None:
    arena.compare(
        arena.run(engine, GPU, steps, rows, policy), arena.run(engine_named("cpu"), CPU, steps, rows)
    )  # fmt: skip


def contiguous(size: int) -> Walk:
    return walk((size,), (1,), (1,))
