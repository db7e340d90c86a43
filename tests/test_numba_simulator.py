"""The numba engine in Numba's CUDA simulator, for its indexing: which elements are read, which are written, and nothing beside them.

The simulator has neither addresses nor intrinsics, so the kernels get a target in plain Python here, and the driver is a handful of
functions over the host's memory. All between a task and a kernel is the engine's own: the schedule, the tables, their copies, the
arguments as the driver takes them. Since the target's fma is the C library's, results are compared bit by bit with the rule itself.

The simulator is chosen when Numba is imported, so the cases run in a process of their own: `simulated_*` are its test functions.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import inspect
import os
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_adam.engines import EngineUnavailable
from gpu_adam.formats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Format
from gpu_adam.layout import VECTOR_BYTES, Device, Walk, walk
from gpu_adam.plan import ROLES, ROW_WORDS, Policy, Task, schedule

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

GPU = Device("cuda", 0)
# Few threads, since each one is a thread of the host's; chunks that several blocks and several rounds of a block share.
SMALL = Policy(threads=8, vectors=1, waves=1, min_chunk=128, max_chunk=128)
GUARD = 64
"""Bytes around every array that must stay as they are."""


@pytest.mark.parametrize("cases", ["multi_tensor", "flat", "strided", "program"])
def test_in_the_simulator(cases: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "python_functions=simulated_*"]
    # Lanes out of bounds compute too, with numbers whose roots and quotients need not exist.
    command += ["-W", "ignore::RuntimeWarning"]
    child = subprocess.run(
        [*command, "-k", f"simulated_{cases}", __file__],
        env={**environment, "NUMBA_ENABLE_CUDASIM": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr


# ---- A target and a driver in plain Python ------------------------------------------------------------------------------------------


def _exact_fma() -> dict[str, Any]:
    library = ctypes.CDLL(ctypes.util.find_library("m") or None)
    functions = {"float32": (library.fmaf, ctypes.c_float), "float64": (library.fma, ctypes.c_double)}
    for function, number in functions.values():
        function.restype, function.argtypes = number, [number] * 3
    return {name: function for name, (function, _) in functions.items()}


_FMA = _exact_fma()


def _fma(a: Any, b: Any, c: Any) -> Any:
    assert type(a) is type(b) is type(c), "formats are never mixed"
    return type(a)(_FMA[a.dtype.name](a, b, c))


class Bounds:
    """The stretches of memory that a kernel may touch; anything else is what a GPU would call an illegal address, or a race."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._owners: list[Any] = []

    def add(self, begin: int, end: int, owner: Any) -> None:
        # Memory that was given back would come again as another array.
        self._owners.append(owner)
        k = bisect_right(self._begins, begin)
        self._begins.insert(k, begin)
        self._ends.insert(k, end)

    def check(self, address: int, nbytes: int) -> None:
        k = bisect_right(self._begins, address) - 1
        inside = k >= 0 and address + nbytes <= self._ends[k]
        assert inside, f"address {address:#x} is out of bounds"
        assert address % nbytes == 0, f"address {address:#x} is no multiple of {nbytes}"


BOUNDS = Bounds()


def _at(address: int, dtype: Any) -> Any:
    dtype = np.dtype(dtype)
    BOUNDS.check(address, dtype.itemsize)
    return np.frombuffer((ctypes.c_char * dtype.itemsize).from_address(int(address)), dtype)


def _load(format: Format, working: Format) -> Any:
    def load(address: int) -> Any:
        return working.dtype.type(_at(address, format.dtype)[0])

    return load


def _store(format: Format, working: Format) -> Any:
    def store(address: int, value: Any) -> None:
        assert value.dtype == working.dtype
        _at(address, format.dtype)[0] = format.dtype.type(value)

    return store


def _load_vector(format: Format, working: Format, lanes: int) -> Any:
    def load_vector(address: int, values: Any, first: int) -> None:
        for lane in range(lanes):
            values[first + lane] = _load(format, working)(address + lane * format.itemsize)

    return load_vector


def _store_vector(format: Format, working: Format, lanes: int) -> Any:
    def store_vector(address: int, values: Any, first: int) -> None:
        for lane in range(lanes):
            _store(format, working)(address + lane * format.itemsize, values[first + lane])

    return store_vector


class HostEvent:
    """An event is reached as soon as it is recorded, since all calls here are done when they return."""

    def record(self, stream: int) -> None: ...

    def synchronize(self) -> None: ...

    def hold(self, stream: int) -> None: ...


class HostBinding:
    """The host's memory and the simulator in place of CUDA; see `gpu_adam.engines.gpu.Binding`."""

    def __init__(self) -> None:
        self.kernels: dict[str, Any] = {}

    def on(self, device: int) -> nullcontext[None]:
        return nullcontext()

    def processors(self, device: int) -> int:
        return 4

    def capability(self, device: int) -> int:
        return 90

    def stream(self, stream: int | None) -> int:
        return stream or 0

    def refuse_capture(self, stream: int) -> None: ...

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        owner = np.zeros(max(nbytes, 1), np.uint8)
        BOUNDS.add(owner.ctypes.data, owner.ctypes.data + nbytes, owner)
        return owner.ctypes.data, owner

    def exchange(self, to: int, source: int, nbytes: int, stream: int | None) -> None:
        ctypes.memmove(to, source, nbytes)

    def pinned(self, nbytes: int) -> Any:
        return np.zeros(max(nbytes, 1), np.uint8)

    def event(self) -> HostEvent:
        return HostEvent()

    def copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        ctypes.memmove(to, source, nbytes)

    def function(self, binary: bytes, symbol: str) -> Any:
        return self.kernels[symbol]

    def launch(self, call: Any, stream: int) -> None:
        count = len(inspect.signature(call.function.fn).parameters)
        addresses = (ctypes.c_void_p * count).from_address(call.parameters)
        call.function[call.grid, call.block](*(ctypes.c_int64.from_address(address).value for address in addresses))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The numba engine over the host's memory and the simulator."""
    import numba.cuda

    from gpu_adam.engines import numba as module
    from gpu_adam.kernels.cuda import Target, make_kernel

    target = Target(
        fma=_fma,
        sqrt=np.sqrt,
        load_word=lambda address: int(_at(address, np.int64)[0]),
        load=_load,
        store=_store,
        load_vector=_load_vector,
        store_vector=_store_vector,
    )
    binding = HostBinding()

    def compile_kernel(kind: Any, vectors: int, threads: int, capability: tuple[int, int]) -> tuple[str, bytes]:
        binding.kernels[kind.name] = numba.cuda.jit(make_kernel(kind, vectors, target))
        return kind.name, b""

    monkeypatch.setattr(sys.modules[__name__], "BOUNDS", Bounds())
    monkeypatch.setattr(module, "compile_kernel", compile_kernel)
    return module.NumbaEngine(binding)


# ---- Tensors between guards, and what the rule makes of them ------------------------------------------------------------------------


class Stretch:
    """An array in memory of its own: elements at ``strides`` from ``first`` on, random numbers, guards around them."""

    def __init__(
        self, format: Format, sizes: Sequence[int], strides: Sequence[int], misaligned: int, seed: int
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
            BOUNDS.add(self.first + low * format.itemsize, self.first + (high + 1) * format.itemsize, self.memory)
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


@dataclass(frozen=True)
class Kind:
    """What a tensor is made of."""

    param: Format = FLOAT32
    grad: Format = FLOAT32
    master: bool = False
    rule: str = "adam"

    @property
    def states(self) -> int:
        from gpu_adam.kernels.rules import RULES

        return len(RULES[self.rule].states)

    def __str__(self) -> str:
        return f"{self.rule}-{self.param}-{self.grad}{'-master' if self.master else ''}"


KINDS = [
    Kind(),
    Kind(FLOAT32, FLOAT64, rule="adam_amsgrad"),
    Kind(FLOAT32, BFLOAT16),
    Kind(FLOAT64, FLOAT64, rule="adam_amsgrad"),
    Kind(FLOAT64, FLOAT16),
    Kind(FLOAT16, FLOAT16),
    Kind(FLOAT16, FLOAT32, master=True),
    Kind(BFLOAT16, BFLOAT16, master=True, rule="adam_amsgrad"),
    Kind(BFLOAT16, FLOAT64),
]


class Tensor:
    """A parameter with its gradient and states, as a task for the schedule."""

    def __init__(
        self,
        kind: Kind,
        journey: Walk,
        *,
        seed: int,
        param_off: int = 0,
        grad_off: int = 0,
        row: int = 0,
        flat: bool = False,
    ) -> None:
        self.kind, self.walk, self.row = kind, journey, row
        self.size = int(np.prod(journey.shape, dtype=np.int64))
        working = kind.param.working
        self.param = Stretch(kind.param, journey.shape, journey.param, param_off, seed)
        self.grad = Stretch(kind.grad, journey.shape, journey.grad, grad_off, seed + 10)
        phase = self.param.first // kind.param.itemsize % (VECTOR_BYTES // kind.param.itemsize)
        phase = phase if journey.contiguous and not flat else 0
        self.states = [Stretch(working, (self.size,), (1,), phase, seed + 20 + 10 * s) for s in range(kind.states)]
        self.master = Stretch(FLOAT32, (self.size,), (1,), phase, seed + 50) if kind.master else None
        states = [*(stretch.first for stretch in self.states), 0, 0, 0][:3]
        self.task = Task(
            index=seed,
            label=str(seed),
            size=self.size,
            phase=phase,
            walk=journey,
            row=row,
            flat=flat,
            param=kind.param,
            grad=kind.grad,
            master=kind.master,
            rule=kind.rule,
            states=kind.states,
            pointers=(self.param.first, self.grad.first, *states, self.master.first if self.master else 0),
        )

    @property
    def stretches(self) -> list[Stretch]:
        return [self.param, self.grad, *self.states, *([self.master] if self.master else [])]

    def expect_step(self, rows: Any) -> None:
        """Take the step that is expected, element by element, through the coordinates themselves."""
        from gpu_adam.kernels.rules import RULES, decay

        number, c = self.kind.param.working.dtype.type, rows[self.row]
        before, rule = decay(_fma, np.sqrt), RULES[self.kind.rule].make(_fma, np.sqrt)
        places = product(*(range(n) for n in self.walk.shape))
        for k, place in enumerate(places):
            at_param = sum(i * stride for i, stride in zip(place, self.walk.param, strict=True))
            at_grad = sum(i * stride for i, stride in zip(place, self.walk.grad, strict=True))
            theta = self.master[k] if self.master else number(self.param[at_param])
            theta, gradient = before(theta, number(self.grad[at_grad]), c)
            states = [stretch[k] for stretch in self.states]
            theta, *after = rule(theta, gradient, *(*states, gradient, gradient)[:3], c)
            self.param[at_param] = theta
            if self.master:
                self.master[k] = theta
            for stretch, value in zip(self.states, after, strict=False):
                stretch[k] = value

    def check(self) -> None:
        for name, stretch in zip(
            (*ROLES[:2], *(f"state{s}" for s in range(self.kind.states)), "master"), self.stretches, strict=False
        ):
            wrong = np.flatnonzero(stretch.memory != stretch.expected)
            assert not wrong.size, (
                f"{name} of tensor {self.task.label}: byte {wrong[0] - stretch.offset} from its first"
            )


def contiguous(size: int) -> Walk:
    return walk((size,), (1,), (1,))


def coefficients(count: int = 1) -> dict[str, Any]:
    """Rows that differ in every number, with each kind of decay on and off."""
    rows = np.random.default_rng(count).uniform(0.05, 0.4, (count, ROW_WORDS))
    rows[:, 0] = np.where(np.arange(count) % 2, -1, 1)
    rows[:, 1] = np.arange(count) % 3 == 1
    rows[:, 2] = np.arange(count) % 3 == 2
    return {"float64": rows, "float32": rows.astype(np.float32)}


def run(engine: Any, tensors: Sequence[Tensor], policy: Policy = SMALL, rows: int = 1, steps: int = 1) -> Any:
    """Some steps on the engine and as expected, then the comparison of every byte."""
    launches = schedule([tensor.task for tensor in tensors], GPU, 4, policy)
    program = engine.load(launches, GPU)
    numbers = coefficients(rows)
    for _ in range(steps):
        program.run(numbers)
        for tensor in tensors:
            tensor.expect_step(numbers[tensor.kind.param.working.name])
    for tensor in tensors:
        tensor.check()
    return program, launches


SIZES = [0, 0, 1, 2, 3, 4, 5, 0, 31, 127, 128, 129, 255, 256, 257, 0]


@pytest.fixture
def numbers() -> Iterator[int]:
    """Seeds that no two tensors share."""
    return iter(range(0, 1_000_000, 100))


# ---- The cases ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def simulated_multi_tensor_sizes_and_alignments(engine: Any, numbers: Iterator[int], kind: Kind) -> None:
    """Every size meets every misalignment over the kinds; parameter and gradient each with its own."""
    start = KINDS.index(kind)
    tensors = [
        Tensor(
            kind, contiguous(n), seed=next(numbers), param_off=(start + k) % 8, grad_off=(start + 3 * k) % 8, row=k % 4
        )
        for k, n in enumerate(SIZES)
    ]
    run(engine, tensors, rows=4)


@pytest.mark.parametrize("param_off", range(4))
@pytest.mark.parametrize("grad_off", range(4))
def simulated_multi_tensor_all_alignments(engine: Any, numbers: Iterator[int], param_off: int, grad_off: int) -> None:
    sizes = (1, 2, 3, 4, 5, 6, 7, 8, 9, 37)
    tensors = [Tensor(Kind(), contiguous(n), seed=next(numbers), param_off=param_off, grad_off=grad_off) for n in sizes]
    run(engine, tensors)


@pytest.mark.parametrize("vectors", [2, 3])
def simulated_multi_tensor_several_vectors_a_thread(engine: Any, numbers: Iterator[int], vectors: int) -> None:
    engine.policy = Policy(threads=8, vectors=vectors, waves=1, min_chunk=128, max_chunk=128)
    tensors = [Tensor(Kind(), contiguous(n), seed=next(numbers), param_off=n % 4) for n in (5, 97, 130, 300)]
    run(engine, tensors, engine.policy)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("vectors", [1, 2])
def simulated_flat_sizes(engine: Any, numbers: Iterator[int], kind: Kind, vectors: int) -> None:
    policy = Policy(threads=8, vectors=vectors)
    for k, size in enumerate((1, 2, 3, 4, 5, 31, 64, 129)):
        run(engine, [Tensor(kind, contiguous(size), seed=next(numbers), flat=True, row=k % 3)], policy, rows=3)


@pytest.mark.parametrize("off", [1, 2, 3])
def simulated_flat_misaligned(engine: Any, numbers: Iterator[int], off: int) -> None:
    run(engine, [Tensor(Kind(), contiguous(70), seed=next(numbers), flat=True, param_off=off, grad_off=3 - off)])


WALKS = [
    Walk((), (), ()),
    Walk((7,), (2,), (1,)),
    Walk((130,), (1,), (-1,)),
    Walk((130,), (-3,), (2,)),
    Walk((3, 5), (5, 1), (1, 3)),
    Walk((4, 6), (7, 1), (6, 1)),
    Walk((2, 3, 4), (12, 4, 1), (12, 1, 3)),
    Walk((2, 3, 2, 5), (40, -11, 5, 1), (1, 2, 6, 12)),
    Walk((2,) * 8, (128, 64, 32, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 32, 64, 128)),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def simulated_strided_walks(engine: Any, numbers: Iterator[int], kind: Kind) -> None:
    tensors = [
        Tensor(kind, journey, seed=next(numbers), param_off=k % 4, grad_off=k % 3, row=k % 4)
        for k, journey in enumerate(WALKS)
    ]
    _, launches = run(engine, tensors, rows=4)
    assert "strided" in {launch.specialization.family for launch in launches}


def simulated_program_of_every_family_and_format(engine: Any, numbers: Iterator[int]) -> None:
    """Several launches in a program, rows of both formats, several steps over one table."""
    tensors = [Tensor(kind, contiguous(9 + k), seed=next(numbers), row=k % 4) for k, kind in enumerate(KINDS)]
    tensors += [Tensor(kind, WALKS[5], seed=next(numbers), row=k % 4) for k, kind in enumerate(KINDS[:4])]
    tensors += [Tensor(kind, contiguous(50), seed=next(numbers), flat=True, row=3) for kind in KINDS[:4]]
    run(engine, tensors, rows=4, steps=3)


def simulated_program_takes_up_new_pointers(engine: Any, numbers: Iterator[int]) -> None:
    tensors = [Tensor(Kind(), contiguous(n), seed=next(numbers), param_off=1) for n in (5, 40, 3)]
    program, (launch,) = run(engine, tensors)
    for k, tensor in enumerate(tensors):
        tensor.grad = Stretch(FLOAT32, (tensor.size,), (1,), k, next(numbers))
        launch.table.pointers[1, k] = tensor.grad.first - tensor.task.phase * 4
    # More often than there are slots to copy through.
    for _ in range(40):
        program.rebind(0, 1)
    rows = coefficients()
    program.run(rows)
    for tensor in tensors:
        tensor.expect_step(rows["float32"])
        tensor.check()


def simulated_program_of_nothing(engine: Any) -> None:
    engine.load((), GPU).run({})


def simulated_program_of_a_flat_launch_has_no_pointers(engine: Any, numbers: Iterator[int]) -> None:
    program, _ = run(engine, [Tensor(Kind(), contiguous(20), seed=next(numbers), flat=True)])
    with pytest.raises(ValueError, match="no table"):
        program.rebind(0, 1)


def simulated_program_memory(engine: Any) -> None:
    memory = engine.allocate(GPU, 100)
    assert not engine.download(memory, 0, 100).any()
    engine.upload(memory, 10, np.arange(5, dtype=np.int32))
    assert engine.download(memory, 10, 20).view(np.int32).tolist() == [0, 1, 2, 3, 4]
    assert engine.download(memory, 0, 0).size == 0
    assert engine.allocate(GPU, 0).nbytes == 0


def simulated_program_is_refused_by_the_engine_itself() -> None:
    from gpu_adam.engines.numba import engine

    with pytest.raises(EngineUnavailable, match="NUMBA_ENABLE_CUDASIM"):
        engine()
