"""Programs of the GPU engines with a prologue: their steps, their step counts, several devices.

The reference is the same engine's program without a prologue, which takes its coefficients from the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest

from gpu_adam.device import Device
from gpu_adam.engines.cuda.staging import RING
from gpu_adam.kernels.abi import NORMS, SKIPPED, WORD
from gpu_adam.plan.policy import GPU_POLICY
from gpu_adam.plan.scheduling import launches_of
from tests.support import gpu_rigs
from tests.support.gpu_rigs import FORMATS, GRADIENTS, ROOM, Array, Host, Problem, assert_same, expected, tasks_of

rig, host, host_kernels = gpu_rigs.rig, gpu_rigs.host, gpu_rigs.host_kernels

# ---- Steps --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measures", [False, True])
def test_coefficients_of_the_device_are_those_of_the_host(rig: Any, measures: bool) -> None:
    problem = Problem(rig.engine, measures=measures)
    (program,) = problem.load(on_device=True)
    problem.instruct([program])
    for _ in range(5):
        program.run(None)
    assert program.counts().tolist() == [5, 5]
    assert_same(problem.result(), expected(rig.engine, [(0, {})] * 5, measures))


def test_every_step_has_its_own_settings_and_gradients_however_far_the_host_is_ahead(rig: Any) -> None:
    problem = Problem(rig.engine)
    programs = problem.load(on_device=True)
    steps = [(k % GRADIENTS, {"lr": 0.01 / (1 + k)}) for k in range(3 * RING)]
    for choice, changed in steps:
        problem.bind(programs, choice)
        problem.instruct(programs, **changed)
        programs[0].run(None)
    assert_same(problem.result(), expected(rig.engine, steps))


def test_steps_follow_each_other_on_any_streams(rig: Any) -> None:
    problem = Problem(rig.engine)
    programs = problem.load(on_device=True)
    streams = [rig.stream(), rig.stream(), None]
    steps = [(k % GRADIENTS, {"lr": 0.01 / (1 + k)}) for k in range(20)]
    for k, (choice, changed) in enumerate(steps):
        problem.bind(programs, choice, streams[k % 3])
        problem.instruct(programs, streams[k % 3], **changed)
        programs[0].run(None, streams[k % 3])
    assert_same(problem.result(), expected(rig.engine, steps))


def test_a_stream_that_changes_within_a_step_keeps_the_order(host: Host) -> None:
    problem = Problem(host.engine, (0, 0, 1))
    programs = problem.load(on_device=True)
    problem.instruct(programs)
    host.engine.finish()
    programs[1].measure(12)
    programs[0].measure(1)
    programs[0].gather(programs[1:], 2)
    programs[0].run(None, 3)
    streams = host.engine.binding.streams
    streams.finish(3)  # needs what the others hold
    assert not any(streams.queues[key] for key in (1, 2, 12))


def test_a_step_that_is_not_finite_is_skipped_and_not_counted(rig: Any) -> None:
    problem = Problem(rig.engine)
    programs = problem.load(on_device=True)
    rig.engine.upload(problem.memories[1], (3 + 1) * ROOM + 4 * 1234, np.array([inf], np.float32))
    problem.instruct(programs)
    for choice in (0, 1, 2, 1, 1, 3):
        problem.bind(programs, choice)
        programs[0].run(None)
    assert programs[0].counts().tolist() == [3, 3]
    control = rig.engine.download(problem.controls[Device("cuda")], 0, NORMS * WORD).view(np.int64)
    assert control[SKIPPED] == 3
    assert_same(problem.result(), expected(rig.engine, [(0, {}), (2, {}), (3, {})]))


def test_a_step_allocates_nothing_and_waits_for_nothing(host: Host) -> None:
    problem = Problem(host.engine)
    programs = problem.load(on_device=True)
    binding = host.engine.binding
    replay = programs[0].graph()
    before = binding.allocations, binding.waits
    for k in range(2 * RING):
        problem.bind(programs, k % GRADIENTS)
        programs[0].recent_counts()
        problem.instruct(programs, lr=0.01 / (1 + k))
        programs[0].run(None)
        replay()
        host.engine.finish()  # the device keeps up
    assert (binding.allocations, binding.waits) == before


def test_a_step_is_the_prologue_and_the_updates(host: Host) -> None:
    problem = Problem(host.engine)
    programs = problem.load(on_device=True)
    problem.instruct(programs)
    host.engine.finish()
    programs[0].run(None)
    prologue, singles, doubles, event = range(4)
    assert len(host.engine.binding.streams.queues[0]) == len((prologue, singles, doubles, event))


# ---- Step counts without waiting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [False, True])
def test_recent_counts_are_exact_for_the_moment_that_they_name(rig: Any, graph: bool) -> None:
    problem = Problem(rig.engine)
    programs = problem.load(on_device=True)
    rig.engine.upload(problem.memories[0], (3 + 1) * ROOM, np.array([inf], np.float32))
    run = programs[0].graph() if graph else lambda: programs[0].run(None)
    counted = [0]
    for k in range(4 * RING):
        counts, age = programs[0].recent_counts()
        assert counts.tolist() == [counted[len(counted) - 1 - age]] * 2
        assert age <= RING
        skipped = k % 3 == 1
        problem.bind(programs, 1 if skipped else 0)
        problem.instruct(programs, lr=0.01 / (1 + k))
        counts, age = programs[0].recent_counts()  # not yet those that were asked for just now
        assert counts.tolist() == [counted[len(counted) - 1 - age]] * 2
        run()
        counted.append(counted[-1] + (not skipped))
    assert age == RING
    assert programs[0].counts().tolist() == [counted[-1]] * 2
    assert programs[0].recent_counts()[1] == 0


def test_counts_that_nobody_noted_are_those_of_the_beginning(host: Host) -> None:
    problem = Problem(host.engine)
    (program,) = problem.load(on_device=True)
    problem.instruct([program])
    for _ in range(RING // 2):
        program.run(None)
    assert [program.recent_counts()[0].tolist(), program.recent_counts()[1]] == [[0, 0], RING // 2]
    assert program.counts().tolist() == [RING // 2] * 2
    program.run(None)
    assert [program.recent_counts()[0].tolist(), program.recent_counts()[1]] == [[RING // 2] * 2, 1]


# ---- Several devices ----------------------------------------------------------------------------------------------------------------


def steps_on(host: Host, devices: Sequence[int], steps: Sequence[tuple[int, dict[str, Any]]], seed: int) -> list[Array]:
    """What steps leave whose parameters are on these devices, which get to their work in some order."""
    problem = Problem(host.engine, devices)
    programs = problem.load(on_device=True)
    rng = np.random.default_rng(seed)
    streams = host.engine.binding.streams
    for choice, changed in steps:
        problem.bind(programs, choice)
        problem.instruct(programs, **changed)
        for program in programs:
            program.measure()
        for program in programs:
            program.gather([other for other in programs if other is not program])
        for program in programs:
            program.run(None)
        for key in rng.permutation(list(streams.queues)).tolist():
            streams.finish(key, int(rng.integers(0, 12)))
    for program in programs:
        assert program.counts().tolist() == [len(steps)] * 2
    return problem.result()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("devices", [(0, 0, 1), (1, 0, 1), (2, 1, 0)])
def test_the_norm_is_that_of_all_devices(host: Host, devices: tuple[int, ...], seed: int) -> None:
    steps = [(k % GRADIENTS, {"lr": 0.01 / (1 + k)}) for k in range(2 * RING)]
    assert_same(steps_on(host, devices, steps, seed), expected(host.engine, steps))


def test_sums_are_not_freed_while_another_device_reads_them(host: Host) -> None:
    problem = Problem(host.engine, (0, 0, 1))
    programs = problem.load(on_device=True)
    problem.instruct(programs)
    for program in programs:
        program.measure()
    reader = programs.pop()
    reader.gather(programs)
    del program
    before = host.engine.binding.waits
    programs.clear()
    assert host.engine.binding.waits == before + 1


def test_a_step_on_several_devices_cannot_be_captured(host: Host) -> None:
    problem = Problem(host.engine, (0, 0, 1))
    programs = problem.load(on_device=True)
    with pytest.raises(RuntimeError, match="several devices"):
        programs[0].graph()
    stream = host.stream()
    with host.captured(stream):
        with pytest.raises(RuntimeError, match="several devices"):
            programs[0].measure(stream)
        with pytest.raises(RuntimeError, match="several devices"):
            programs[0].run(None, stream)
    with pytest.raises(ValueError, match="0 other devices: must be those of 1"):
        programs[0].gather([])


# ---- Mistakes -----------------------------------------------------------------------------------------------------------------------


def test_a_prologue_needs_control_words_and_counts(host: Host) -> None:
    problem = Problem(host.engine)
    problem.load(on_device=True)
    with pytest.raises(ValueError, match="control words and step counts"):
        host.engine.load(problem.launches[0], Device("cuda"), problem.prologues[0])


def test_a_program_without_a_prologue_keeps_no_counts(host: Host) -> None:
    (program,) = Problem(host.engine).load(on_device=False)
    for ask in (
        program.counts,
        program.recent_counts,
        program.measure,
        lambda: program.instruct(np.zeros(1, np.int64)),
    ):
        with pytest.raises(RuntimeError, match="no prologue"):
            ask()


def test_a_launch_without_a_table_takes_no_pointers(host: Host) -> None:
    task = replace(tasks_of([(1 << 20, 1 << 21)] * len(FORMATS))[0], flat=True)
    program = host.engine.load(launches_of([task], Device("cuda"), 4, GPU_POLICY), Device("cuda"))
    for launch in (0, None):
        with pytest.raises(ValueError, match="no table"):
            program.rebind(launch, 1)
