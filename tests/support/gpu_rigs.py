"""Engines and small programs for the tests of what the GPU engines do on the host, with the fixtures `rig` and `host`.

A rig is an engine with what a test needs besides: GPUs made of host memory (`cuda_cpp.host_gpu`), and what is marked ``gpu``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from math import sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from gpu_adam.device import Device
from gpu_adam.dtypes import BFLOAT16, FLOAT32, FLOAT64, Format
from gpu_adam.engines import engine_named
from gpu_adam.engines.compile.disk import cache_dir
from gpu_adam.engines.cuda import numba as numba_engine
from gpu_adam.engines.cuda.arguments import update_kernel
from gpu_adam.engines.cuda.engine import GpuEngine
from gpu_adam.engines.cuda.program import GpuProgram
from gpu_adam.kernels.abi import NORMS, ROW_WORDS, WORD
from gpu_adam.kernels.specialization import CoalesceKernel, PrologueKernel
from gpu_adam.plan.cohorts import Cohort
from gpu_adam.plan.launches import Task
from gpu_adam.plan.policy import GPU_POLICY
from gpu_adam.plan.prologue import Prologue, SettingsLayout
from gpu_adam.plan.scheduling import launches_of
from gpu_adam.plan.tables import Gradient, MeasureTable, leaves_of
from gpu_adam.rules.algorithm import coefficients
from gpu_adam.rules.hyperparameters import Averaging
from gpu_adam.step.scaling import Scaling
from gpu_adam.step.settings import Limits, Settings
from gpu_adam.strides import Walk
from tests.support.cuda_cpp import build
from tests.support.cuda_cpp.host_gpu import HostEngine
from tests.support.shipped import ADAM as RULE

Array = np.ndarray[Any, Any]

# ---- Engines, and what tests ask of them besides ------------------------------------------------------------------------------------


class Host:
    """GPUs made of host memory."""

    def __init__(self, library: build.Library) -> None:
        self.engine = HostEngine(library)
        self._handles = 0

    def stream(self) -> int:
        self._handles += 1
        return self._handles

    def captured(self, stream: int) -> AbstractContextManager[Any]:
        return self.engine.binding.captured(stream)


class Cupy:
    """A GPU through CuPy."""

    def __init__(self) -> None:
        self.engine: Any = engine_named("cupy")
        self._streams: dict[int, Any] = {}

    def stream(self) -> int:
        import cupy

        stream = cupy.cuda.Stream(non_blocking=True)
        self._streams[stream.ptr] = stream
        return int(stream.ptr)

    @contextmanager
    def captured(self, stream: int) -> Iterator[Any]:
        import cupy

        one = self._streams[stream]
        graph = SimpleNamespace(launch=lambda to: graph.inner.launch(cupy.cuda.ExternalStream(to)))
        one.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
        try:
            yield graph
        finally:
            graph.inner = one.end_capture()


class Numba:
    """A GPU through Numba."""

    def __init__(self) -> None:
        self.engine: Any = engine_named("numba")
        self._streams: list[Any] = []

    def stream(self) -> int:
        from numba import cuda

        self._streams.append(cuda.stream())
        return int(self._streams[-1].handle)

    @contextmanager
    def captured(self, stream: int) -> Iterator[Any]:
        from cuda.bindings import driver

        graph = SimpleNamespace(launch=lambda to: graph.inner.launch(to))
        driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            yield graph
        finally:
            graph.inner = numba_engine.NumbaGraph(driver.cuStreamEndCapture(stream)[1])


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> build.Library:
    if build.missing is not None:
        pytest.skip(build.missing)
    folder: Path = (cache_dir() or tmp_path_factory.getbasetemp()) / "tests"
    kinds = {task.specialization for task in [*tasks_of([(0, 0)] * len(FORMATS)), row_task(0, 0, 0)]}
    updates = [replace(kind, family="flat") for kind in kinds if kind.family == "multi_tensor"] + list(kinds)
    kernels = [update_kernel(launch) for kind in updates for launch in _launches_of(kind)]
    others = [PrologueKernel(RULE), *(CoalesceKernel(values, FLOAT32) for values in (BFLOAT16, FLOAT32))]
    return build.Library(build.build([*kernels, *others], build.FAST, folder))


@pytest.fixture(
    params=["host", pytest.param("cupy", marks=pytest.mark.gpu), pytest.param("numba", marks=pytest.mark.gpu)]
)
def rig(request: pytest.FixtureRequest) -> Any:
    if request.param == "host":
        return Host(request.getfixturevalue("host_kernels"))
    pytest.importorskip({"cupy": "cupy", "numba": "numba_cuda"}[request.param])
    return {"cupy": Cupy, "numba": Numba}[request.param]()


@pytest.fixture
def host(host_kernels: build.Library) -> Host:
    return Host(host_kernels)


# ---- A problem: three parameters, the last of them of another working format --------------------------------------------------------

FORMATS: tuple[Format, ...] = (FLOAT32, FLOAT32, FLOAT64)
SIZES = (5, 2500, 700)
ROOM = 2560 * 8
"""Bytes of each stream of a parameter."""

GRADIENTS = 4
"""Gradients that there are to choose from."""

ADAM: dict[str, Any] = {
    "lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1, "decoupled_weight_decay": True,
    "amsgrad": False, "maximize": False, "bias_correction": True, "eps_hat": False,
}  # fmt: skip
NO_AVERAGE = Averaging()


def tasks_of(places: Sequence[tuple[int, int]]) -> list[Task]:
    """A task for each parameter, given its address and its gradient's."""
    return [
        Task(
            index=k, label=f"tensor {k}", size=size, phase=0, walk=Walk((size,), (1,), (1,)), row=0, flat=False, param=format,
            grad=format, master=False, rule=RULE, pointers=(at, grad, at + ROOM, at + 2 * ROOM, 0, 0, 0),
        )
        for k, (size, format, (at, grad)) in enumerate(zip(SIZES, FORMATS, places, strict=True))
    ]  # fmt: skip


def _launches_of(kind: Any) -> Any:
    task = replace(tasks_of([(0, 0)] * len(FORMATS))[0], param=kind.param, grad=kind.grad, flat=kind.family == "flat")
    return launches_of([row_task(0, 0, 0) if kind.family == "rows" else task], Device("cuda"), 4, GPU_POLICY)


class Problem:
    """Parameters, gradients and states in an engine's memory, and programs over them.

    The gradients are small integers, so that any sum of their squares is exact.
    """

    def __init__(self, engine: GpuEngine[Any], devices: Sequence[int] = (0, 0, 0), measures: bool = True) -> None:
        self.engine = engine
        self.measures = measures
        self.devices = [Device("cuda", index) for index in devices]
        rng = np.random.default_rng(7)
        self.memories = []
        self.gradients = []
        for size, format, device in zip(SIZES, FORMATS, self.devices, strict=True):
            memory = engine.allocate(device, (3 + GRADIENTS) * ROOM)
            engine.upload(memory, 0, rng.normal(size=size).astype(format.dtype))
            gradients = rng.integers(-9, 10, (GRADIENTS, size)).astype(format.dtype)
            for k, gradient in enumerate(gradients):
                engine.upload(memory, (3 + k) * ROOM, gradient)
            self.memories.append(memory)
            self.gradients.append(gradients)
        self.bound = 0
        self.hyper = GpuAdam.algorithm.hyperparameters(ADAM, "group 0")
        self.limits = Limits(max_norm=50.0, skip_nonfinite=True) if measures else Limits()

    def gradient(self, tensor: int, choice: int) -> int:
        return self.memories[tensor].address + (3 + choice) * ROOM

    def load(self, on_device: bool) -> list[GpuProgram]:
        """A program for each device."""
        tasks = tasks_of([(memory.address, self.gradient(k, 0)) for k, memory in enumerate(self.memories)])
        slots = np.concatenate(([0], np.cumsum([leaves_of(size) for size in SIZES]))).tolist()
        # The row is 0 for both: each is the first of its working format.
        cohorts = [Cohort(0, FLOAT32, 0, (0,)), Cohort(0, FLOAT64, 0, (2,))]
        ranges = [(0, slots[-1])] if self.measures else []
        self.settings = Settings(cohorts, ranges, SettingsLayout(2, 2, len(ranges), 2))
        self.controls = {}
        self.launches, self.prologues, programs = [], [], []
        devices = list(dict.fromkeys(self.devices))
        for device in devices:
            mine = [k for k, other in enumerate(self.devices) if other == device]
            launches = launches_of([tasks[k] for k in mine], device, 4, GPU_POLICY)
            self.launches.append(launches)
            if not on_device:
                programs.append(self.engine.load(launches, device))
                continue
            table = None
            if self.measures:
                table = MeasureTable(
                    [Gradient(tasks[k].pointers[1], SIZES[k], FORMATS[k], tasks[k].walk, slots[k]) for k in mine]
                )
            prologue = Prologue(
                rule=RULE, device=device, table=table, slots=slots[-1] if self.measures else 0,
                sources=len(devices) if self.measures else 1, cohorts=2, settings_words=len(self.settings.words),
                elements=0, bytes_read=0,
            )  # fmt: skip
            control = self.controls[device] = self.engine.allocate(device, (NORMS + 1) * WORD)
            self.prologues.append(prologue)
            programs.append(self.engine.load(launches, device, prologue, control, np.zeros(2, np.int64)))
        return programs

    def bind(self, programs: Sequence[GpuProgram], choice: int, stream: int | None = None) -> None:
        """Have the programs take up other gradients."""
        if choice == self.bound:
            return
        self.bound = choice
        for program, launches in zip(programs, self.launches, strict=True):
            for number, launch in enumerate(launches):
                launch.table.pointers[1] = [self.gradient(task.index, choice) for task in launch.tasks]
                program.rebind(number, 1, stream)
        for program, prologue in zip(programs, self.prologues, strict=False):
            if prologue.table is not None:
                tensors = [k for k in range(len(SIZES)) if self.devices[k] == prologue.device]
                prologue.table.pointers[:] = [self.gradient(k, choice) for k in tensors]
                program.rebind(None, 1, stream)

    def instruct(self, programs: Sequence[GpuProgram], stream: int | None = None, **changed: Any) -> None:
        self.hyper = GpuAdam.algorithm.hyperparameters({**ADAM, **changed}, "group 0")
        self.settings.update([self.hyper], NO_AVERAGE, Scaling(), self.limits)
        for program in programs:
            program.instruct(self.settings.words, stream)

    def rows(self, t: int, choice: int = 0) -> dict[str, Array]:
        """The coefficients of step ``t``, as the host computes them."""
        factor = 1.0
        if self.measures:
            squares = sum(float((each[choice].astype(np.float64) ** 2).sum()) for each in self.gradients)
            factor = min(1.0, self.limits.max_norm / (sqrt(squares) + 1e-6))
        rows = {}
        for working in (FLOAT32, FLOAT64):
            row = coefficients(self.hyper, self.hyper.record(NO_AVERAGE, working), t, factor, "group 0")
            rows[working.name] = np.array([row]).astype(working.dtype)
            assert rows[working.name].shape == (1, ROW_WORDS)
        return rows

    def result(self) -> list[Array]:
        """Parameters and states, to the bit."""
        return [self.engine.download(memory, 0, 3 * ROOM) for memory in self.memories]


def expected(engine: GpuEngine[Any], steps: Sequence[tuple[int, dict[str, Any]]], measures: bool = True) -> list[Array]:
    """What steps leave that are given as a choice of gradients and changed hyperparameters, by way of the host."""
    problem = Problem(engine, measures=measures)
    programs = problem.load(on_device=False)
    for t, (choice, changed) in enumerate(steps, start=1):
        problem.hyper = GpuAdam.algorithm.hyperparameters({**ADAM, **changed}, "group 0")
        problem.bind(programs, choice)
        programs[0].run(problem.rows(t, choice))
    return problem.result()


def assert_same(found: Sequence[Array], wanted: Sequence[Array]) -> None:
    for k, (one, other) in enumerate(zip(found, wanted, strict=True)):
        np.testing.assert_array_equal(one, other, f"tensor {k}")


# ---- Rows of an embedding ---------------------------------------------------------------------------------------------------------

WIDTH, COUNT, CAPACITY, LIMIT = 24, 11, 16, 20


def row_task(param: int, grad: int, indices: int) -> Task:
    """The update of some rows of an embedding."""
    return Task(
        index=0, label="embedding", size=CAPACITY * WIDTH, phase=0, walk=Walk((CAPACITY * WIDTH,), (1,), (1,)), row=0, flat=False,
        param=FLOAT32, grad=FLOAT32, master=False, rule=RULE, pointers=(param, grad, param + ROOM, param + 2 * ROOM, 0, 0, 0),
        width=WIDTH, indices=indices,
    )  # fmt: skip
