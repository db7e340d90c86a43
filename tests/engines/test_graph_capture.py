"""Steps of the GPU engines in CUDA graphs: those that a caller captures, and the engines' own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_adam.device import Device
from gpu_adam.engines.cuda import numba as numba_engine
from gpu_adam.engines.cuda.cupy import CupyBinding
from gpu_adam.engines.cuda.program import IMPRINTS
from gpu_adam.engines.cuda.staging import RING, Imprints
from tests.support import gpu_rigs
from tests.support.gpu_rigs import GRADIENTS, Host, Problem, assert_same, expected

rig, host, host_kernels = gpu_rigs.rig, gpu_rigs.host, gpu_rigs.host_kernels

# ---- Captures -----------------------------------------------------------------------------------------------------------------------


def test_a_captured_step_is_replayed(rig: Any) -> None:
    problem = Problem(rig.engine)
    programs = problem.load(on_device=True)
    stream = rig.stream()
    problem.instruct(programs, stream)
    programs[0].run(None, stream)
    before = problem.result()
    assert not rig.engine.capturing(Device("cuda"), stream)
    with rig.captured(stream) as graph:
        assert rig.engine.capturing(Device("cuda"), stream)
        programs[0].run(None, stream)
        programs[0].run(None, stream)
    assert_same(problem.result(), before)
    for _ in range(3):
        graph.launch(stream)
    # Only the device knows how often.
    assert [programs[0].recent_counts()[0].tolist(), programs[0].recent_counts()[1]] == [[7, 7], 0]
    problem.instruct(programs, stream, lr=0.002)
    graph.launch(stream)
    assert_same(problem.result(), expected(rig.engine, [(0, {})] * 7 + [(0, {"lr": 0.002})] * 2))


def test_graphs_and_steps_each_use_their_own_gradients(rig: Any) -> None:
    problem = Problem(rig.engine)
    programs = problem.load(on_device=True)
    stream = rig.stream()
    problem.instruct(programs, stream)
    done: list[tuple[int, dict[str, Any]]] = []

    def step(choice: int) -> None:
        problem.bind(programs, choice, stream)
        programs[0].run(None, stream)

    graphs = {}
    step(0)
    done.append((0, {}))
    for name, choices in {"unmoved": (0,), "moved": (1,), "twice": (2, 3), "again": (1,)}.items():
        with rig.captured(stream) as graphs[name]:
            for choice in choices:
                step(choice)
        done += [(problem.bound, {})]
        step(problem.bound)
    for name, choices in (("moved", (1,)), ("unmoved", (0,)), ("twice", (2, 3)), ("unmoved", (0,)), ("again", (1,))):
        graphs[name].launch(stream)
        done += [(choice, {}) for choice in choices]
    for choice in (1, 1, 2):
        step(choice)
        done.append((choice, {}))
    graphs["moved"].launch(stream)
    replay = programs[0].graph()
    replay(stream)  # of the gradients that are bound
    done += [(1, {}), (2, {})]
    assert_same(problem.result(), expected(rig.engine, done))


def test_a_capture_holds_kernels_and_the_gradients_addresses(host: Host) -> None:
    problem = Problem(host.engine)
    programs = problem.load(on_device=True)
    problem.instruct(programs)
    binding = host.engine.binding
    before = binding.allocations, binding.waits
    with host.captured(host.stream()) as graph:
        programs[0].run(None, next(iter(binding.streams.recordings)))
    pointers, kernels = 3, 3
    assert len(graph.work) == pointers + kernels
    assert (binding.allocations, binding.waits) == before


def test_gradients_of_a_capture_that_came_to_nothing(rig: Any) -> None:
    problem = Problem(rig.engine)
    programs = problem.load(on_device=True)
    stream = rig.stream()
    problem.instruct(programs, stream)
    programs[0].run(None, stream)
    with rig.captured(stream):
        problem.bind(programs, 1, stream)
    programs[0].run(None, stream)
    assert_same(problem.result(), expected(rig.engine, [(0, {}), (1, {})]))


def test_what_cannot_be_captured_is_refused(rig: Any) -> None:
    problem = Problem(rig.engine)
    (program,) = problem.load(on_device=True)
    (plain,) = problem.load(on_device=False)
    program.run(None)
    replay = program.graph()
    stream = rig.stream()
    with rig.captured(stream):
        with pytest.raises(RuntimeError, match="capturable=True"):
            plain.run(problem.rows(1), stream)
        with pytest.raises(RuntimeError, match="no prologue"):
            plain.rebind(0, 1, stream)
        with pytest.raises(RuntimeError, match="repeat them for ever"):
            program.instruct(np.zeros(4, np.int64), stream)
        with pytest.raises(RuntimeError, match="cannot be captured in another graph"):
            replay(stream)
        program.run(None, stream)


def test_addresses_that_change_too_often_in_captures_are_refused_and_a_step_helps(host: Host) -> None:
    problem = Problem(host.engine)
    programs = problem.load(on_device=True)
    problem.instruct(programs)
    stream = host.stream()
    problem.bind(programs, 3)

    def capture(first: int, count: int) -> None:
        with host.captured(stream):
            for k in range(first, first + count):
                problem.launches[0][0].table.pointers[1] = 1000 + k
                programs[0].run(None, stream)

    capture(0, IMPRINTS)
    with pytest.raises(RuntimeError, match="run a step that is not captured"):
        capture(IMPRINTS, 4 * IMPRINTS)
    problem.bind(programs, 0)
    programs[0].run(None, stream)
    capture(100, IMPRINTS)


def test_an_imprint_is_never_written_again(host: Host) -> None:
    binding = host.engine.binding
    memory = host.engine.allocate(Device("cuda"), 32)
    data = np.arange(4)
    graphs = []
    with binding.on(0):
        imprints = Imprints(binding, 64)
        for k in range(4):
            data[:] = k // 2
            with host.captured(1) as graph:
                imprints.send(data, memory.address, 1)
            graphs.append((graph, k // 2))
            if k == 1:
                imprints.refill()
    for graph, value in reversed(graphs):
        graph.launch(1)
        host.engine.finish()
        assert host.engine.download(memory, 0, 32).view(np.int64).tolist() == [value] * 4


# ---- Graphs -------------------------------------------------------------------------------------------------------------------------


def test_a_graph_repeats_the_step_with_what_is_set_and_bound(rig: Any) -> None:
    problem = Problem(rig.engine)
    programs = problem.load(on_device=True)
    problem.instruct(programs)
    replay = programs[0].graph()
    streams = [rig.stream(), rig.stream(), None]
    steps = [(k % GRADIENTS, {"lr": 0.01 / (1 + k)}) for k in range(2 * RING)]
    for k, (choice, changed) in enumerate(steps):
        stream = streams[k % 3]
        problem.bind(programs, choice, stream)
        problem.instruct(programs, stream, **changed)
        if k % 5 == 4:
            programs[0].run(None, stream)
        else:
            replay(stream)
    assert_same(problem.result(), expected(rig.engine, steps))


def test_a_graph_keeps_its_program(rig: Any) -> None:
    problem = Problem(rig.engine)
    programs = problem.load(on_device=True)
    problem.instruct(programs)
    replay = programs[0].graph()
    programs.clear()
    replay()
    assert_same(problem.result(), expected(rig.engine, [(0, {})]))


def test_a_graph_needs_a_prologue(rig: Any) -> None:
    (program,) = Problem(rig.engine).load(on_device=False)
    with pytest.raises(RuntimeError, match="no prologue"):
        program.graph()


# ---- The bindings' captures ---------------------------------------------------------------------------------------------------------


class Recorder:
    """Stands in for a library: writes down which of its functions are called."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            self.calls.append(name)
            return self.answers.get(name)

        return call


def _fails(stream: int) -> None:
    raise ZeroDivisionError(stream)


def test_cupy_ends_a_capture_that_fails() -> None:
    stream = Recorder({})
    stream.ptr = 5
    cuda = SimpleNamespace(
        runtime=SimpleNamespace(streamCaptureModeThreadLocal=1), driver=None, Stream=lambda non_blocking: stream
    )
    cupy = SimpleNamespace(cuda=cuda)
    with pytest.raises(ZeroDivisionError, match="5"):
        CupyBinding(cupy).capture(_fails)
    assert stream.calls == ["begin_capture", "end_capture"]


def test_numba_ends_a_capture_that_fails_and_frees_what_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"cuStreamCreate": (0, 5), "cuStreamEndCapture": (0, 6), "cuGraphInstantiate": (0, 7)}
    others = ("cuStreamBeginCapture", "cuStreamDestroy", "cuGraphDestroy", "cuGraphLaunch", "cuGraphExecDestroy")
    driver = Recorder({**answers, **dict.fromkeys(others, (0,))})
    driver.CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    driver.CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    monkeypatch.setattr(numba_engine, "_bindings", lambda: driver)
    binding = object.__new__(numba_engine.NumbaBinding)
    with pytest.raises(ZeroDivisionError, match="5"):
        binding.capture(_fails)
    assert driver.calls == ["cuStreamCreate", "cuStreamBeginCapture", "cuStreamEndCapture", "cuStreamDestroy"]

    driver.calls.clear()
    binding.capture(lambda stream: None).launch(5)
    made = ["cuStreamCreate", "cuStreamBeginCapture", "cuStreamEndCapture", "cuStreamDestroy", "cuGraphInstantiate"]
    assert driver.calls == [*made, "cuGraphDestroy", "cuGraphLaunch", "cuGraphExecDestroy"]
