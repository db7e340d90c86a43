"""Tensors between guards, and what the rule makes of them, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from gpu_adam.device import Device
from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Format
from gpu_adam.kernels.abi import DECOUPLED, L2, MAX_STATES, ROW_WORDS, SCALE, SKIP, VECTOR_BYTES
from gpu_adam.kernels.rules.rule import average, decay
from gpu_adam.plan.launches import Task
from gpu_adam.plan.policy import Geometry, Policy
from gpu_adam.plan.scheduling import launches_of
from gpu_adam.strides import Walk, walk
from tests.kernels.numba_simulator.machine import Bounds, SimulatedEngine, fma
from tests.support.shipped import RULES
from tests.support.tensor_kinds import Kind

GPU = Device("cuda", 0)
# Few threads, since each one is a thread of the host's; chunks that several blocks and several rounds of a block share.
SMALL = Policy.uniform(Geometry(threads=8), waves=1, min_chunk=128, max_chunk=128)
GUARD = 64
"""Bytes around every array that must stay as they are."""


class Stretch:
    """An array in memory of its own: elements at ``strides`` from ``first`` on, random numbers, guards around them."""

    def __init__(
        self, bounds: Bounds, format: Format, sizes: Sequence[int], strides: Sequence[int], misaligned: int, seed: int
    ) -> None:
        reach = [(n - 1) * stride for n, stride in zip(sizes, strides, strict=True) if n]
        low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
        self.format = format
        self.memory = np.random.default_rng(seed).integers(0, 256, 2 * GUARD + (high - low + 64) * 8, dtype=np.uint8)
        aligned = -(-(self.memory.ctypes.data + GUARD) // VECTOR_BYTES) * VECTOR_BYTES
        # The lowest element lies whole vectors and `misaligned` elements beyond a boundary.
        self.first = aligned + (misaligned - low) * format.itemsize
        self.offset = self.first - self.memory.ctypes.data
        if 0 not in sizes:
            bounds.add(self.first + low * format.itemsize, self.first + (high + 1) * format.itemsize, self.memory)
        self.expected = self.memory
        numbers = np.random.default_rng(seed + 1).uniform(0.01, 1, high - low + 1)
        for k, number in enumerate(numbers):
            self._place(low + k, self.memory)[0] = format.dtype.type(number)
        self.expected = self.memory.copy()

    def _place(self, index: int, memory: Any) -> Any:
        begin = self.offset + index * self.format.itemsize
        return memory[begin : begin + self.format.itemsize].view(self.format.dtype)

    def __getitem__(self, index: int) -> Any:
        return self._place(index, self.expected)[0]

    def __setitem__(self, index: int, value: Any) -> None:
        self._place(index, self.expected)[0] = self.format.dtype.type(value)

    def check(self, what: str) -> None:
        wrong = np.flatnonzero(self.memory != self.expected)
        assert not wrong.size, f"{what}: byte {wrong[0] - self.offset} from its first"


KINDS = [
    Kind(),
    Kind(FLOAT32, FLOAT64, rule="adam_amsgrad"),
    Kind(FLOAT32, BFLOAT16, average=True),
    Kind(FLOAT64, FLOAT64, rule="adam_amsgrad", average=True),
    Kind(FLOAT64, FLOAT16),
    Kind(FLOAT16, FLOAT16, average=True),
    Kind(FLOAT16, FLOAT32, master=True),
    Kind(BFLOAT16, BFLOAT16, master=True, rule="adam_amsgrad", average=True),
    Kind(BFLOAT16, FLOAT64),
]


class Tensor:
    """A parameter with its gradient and what is kept beside it, as a task for the planner.

    With ``indices`` it is a matrix with rows of ``width`` elements, of which those of these numbers have a gradient.
    """

    def __init__(
        self,
        engine: SimulatedEngine,
        kind: Kind,
        journey: Walk,
        *,
        seed: int,
        param_off: int = 0,
        grad_off: int = 0,
        row: int = 0,
        flat: bool = False,
        width: int = 0,
        indices: Sequence[int] = (),
    ) -> None:
        bounds = engine.machine.bounds
        self.kind, self.walk, self.row = kind, journey, row
        self.size = int(np.prod(journey.shape, dtype=np.int64))
        self.width, self.indices = width, np.array(indices, np.int64)
        grad_shape, grad_strides = journey.shape, journey.grad
        if width:
            grad_shape, grad_strides = (len(indices), width), (width, 1)
        self.param = Stretch(bounds, kind.param, journey.shape, journey.param, param_off, seed)
        self.grad = Stretch(bounds, kind.grad, grad_shape, grad_strides, grad_off, seed + 10)
        phase = self.param.first // kind.param.itemsize % (VECTOR_BYTES // kind.param.itemsize)
        phase = phase if journey.contiguous and not flat else 0
        self.states, self.master, self.average = (
            [Stretch(bounds, format, (self.size,), (1,), phase, seed + 20 + 10 * (s + place)) for s in range(count)]
            for place, format, count in (
                (0, kind.working, kind.states),
                (MAX_STATES, FLOAT32, kind.master),
                (MAX_STATES + 1, kind.working, kind.average),
            )
        )
        columns = (self.param,), (self.grad,), *((state,) for state in self._padded_states()), self.master, self.average
        self.task = Task(
            index=seed,
            label=str(seed),
            size=len(indices) * width if width else self.size,
            phase=phase,
            walk=journey,
            row=row,
            flat=flat,
            param=kind.param,
            grad=kind.grad,
            master=kind.master,
            rule=RULES[kind.rule],
            pointers=tuple(column[0].first if column and column[0] else 0 for column in columns),
            average=kind.average,
            width=width,
            indices=bounds.add_array(self.indices) if width else 0,
        )

    def _padded_states(self) -> list[Stretch | None]:
        return [*self.states, *[None] * MAX_STATES][:MAX_STATES]

    def expect_step(self, rows: Any) -> None:
        """Take the step that is expected, element by element, through the coordinates themselves."""
        c = rows[self.row]
        if c[SKIP]:
            return
        if self.width:
            for q, number in enumerate(self.indices):
                for j in range(self.width if number >= 0 else 0):
                    k = int(number) * self.width + j
                    self._expect_element(k, q * self.width + j, k, c)
            return
        for k, place in enumerate(product(*(range(n) for n in self.walk.shape))):
            at_param = sum(i * stride for i, stride in zip(place, self.walk.param, strict=True))
            at_grad = sum(i * stride for i, stride in zip(place, self.walk.grad, strict=True))
            self._expect_element(at_param, at_grad, k, c)

    def _expect_element(self, at_param: int, at_grad: int, k: int, c: Any) -> None:
        number = self.kind.working.dtype.type
        before, rule = decay(fma, np.multiply), RULES[self.kind.rule].make(fma, np.sqrt)
        theta = self.master[0][k] if self.master else number(self.param[at_param])
        theta, gradient = before(theta, number(self.grad[at_grad]), c)
        states = [stretch[k] for stretch in self.states]
        theta, *after = rule(theta, gradient, *(*states, *(gradient,) * MAX_STATES)[:MAX_STATES], c)
        self.param[at_param] = theta
        for stretch in self.master:
            stretch[k] = theta
        for stretch, value in zip(self.states, after, strict=False):
            stretch[k] = value
        for stretch in self.average:
            stretch[k] = average(fma)(stretch[k], theta, c)

    def check(self) -> None:
        names = {"param": [self.param], "grad": [self.grad], "master": self.master, "average": self.average}
        names |= {f"state{s}": [stretch] for s, stretch in enumerate(self.states)}
        for name, stretches in names.items():
            for stretch in stretches:
                stretch.check(f"{name} of tensor {self.task.label}")


def contiguous(size: int) -> Walk:
    return walk((size,), (1,), (1,))


def coefficients(count: int = 1) -> dict[str, Any]:
    """Rows that differ in every number, with each kind of decay on and off."""
    rows = np.random.default_rng(count).uniform(0.05, 0.4, (count, ROW_WORDS))
    rows[:, SCALE] = np.where(np.arange(count) % 2, -1, 1)
    rows[:, L2] = np.arange(count) % 3 == 1
    rows[:, DECOUPLED] = np.arange(count) % 3 == 2
    rows[:, SKIP] = 0
    return {"float64": rows, "float32": rows.astype(np.float32)}


def run(
    engine: SimulatedEngine,
    tensors: Sequence[Tensor],
    policy: Policy = SMALL,
    rows: int | dict[str, Any] = 1,
    steps: int = 1,
) -> Any:
    """Some steps on the engine and as expected, then the comparison of every byte."""
    launches = launches_of([tensor.task for tensor in tensors], GPU, 4, policy)
    program = engine.load(launches, GPU)
    coefficients_of = coefficients(rows) if isinstance(rows, int) else rows
    for _ in range(steps):
        program.run(coefficients_of)
        for tensor in tensors:
            tensor.expect_step(coefficients_of[tensor.kind.working.name])
    engine.binding.wait()
    for tensor in tensors:
        tensor.check()
    return program, launches
