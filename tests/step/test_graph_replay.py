"""Graphs of a caller's own that are replayed after the optimizer's plan has changed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, LossScaler
from gpu_adam.state.buckets import BucketState
from gpu_adam.step.scaling import Scaling
from tests.support import gpu_rigs, host_library, host_pairs
from tests.support.gpu_rigs import Array, Host
from tests.support.host_library import KeptPair

host, host_kernels, engines = gpu_rigs.host, gpu_rigs.host_kernels, host_pairs.engines


@pytest.fixture
def library(engines: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    host_library.use(monkeypatch, engines.engine.binding)
    return engines


class Captured(KeptPair):
    """A pair whose first has a captured step of all gradients, which the other does in the ordinary way."""

    def __init__(self, host: Host, **options: Any) -> None:
        super().__init__(host, capturable=True, **options)
        self.stream = host.stream()
        self.kept: list[Any] = []
        self.step()
        self.arrays = self.up(self.gradients())
        self.measures = options.get("max_grad_norm") is not None or "skip_nonfinite" in options
        with host.captured(self.stream) as self.graph:
            self.on_gpu.step(self.arrays, stream=self.stream)

    def step(self, leave: int | None = None, **given: Any) -> None:
        """An ordinary step of both, perhaps without one parameter's gradient."""
        gradients: list[Any] = self.gradients()
        mine: list[Any] = self.up(gradients)
        if leave is not None:
            gradients[leave] = mine[leave] = None
        mine += [self.up([g] * 3)[0] for g in self.more]
        self.kept.append(mine)
        self.on_gpu.step(self.structure(mine), stream=self.stream, **given)
        self.on_cpu.step(self.structure([*gradients, *self.more]), **given)

    more: tuple[Array, ...] = ()
    """Gradients of parameters that were added."""

    def structure(self, arrays: list[Any]) -> list[Any]:
        count = len(self.params)
        return [arrays[:count], *([one] for one in arrays[count:])] if len(arrays) > count else arrays

    def replay(self) -> None:
        """The captured step of the one, and what it stands for of the other."""
        gradients = self.gradients()
        self.host.engine.finish()
        for array, gradient in zip(self.arrays, gradients, strict=True):
            array.memory[...] = gradient
        self.on_gpu.prepare_replay(self.stream)
        self.graph.launch(self.stream)
        most = self.on_cpu.max_grad_norm
        # What was captured without measuring does not clip.
        self.on_cpu.max_grad_norm = most if self.measures else None
        self.on_cpu.step(self.structure([*gradients, *(None for _ in self.more)]))
        self.on_cpu.max_grad_norm = most
        self.host.engine.finish()


def norm_set(pair: Captured) -> None:
    pair.on_gpu.max_grad_norm = pair.on_cpu.max_grad_norm = 2.0 if pair.on_cpu.max_grad_norm is None else None


def state_loaded(pair: Captured) -> None:
    for one in (pair.on_gpu, pair.on_cpu):
        state = one.state_dict()
        for entry in state["state"].values():
            entry["step"] = 40
        one.load_state_dict(state)


def group_added(pair: Captured) -> None:
    array, (there, *_) = np.ones(700), pair.up([np.ones(700)] * 3)
    pair.on_gpu.add_param_group({"params": [there]})
    pair.on_cpu.add_param_group({"params": [array]})
    pair.more = (*pair.more, np.full(700, 0.5))


def edited(pair: Captured) -> None:
    for one in (pair.on_gpu, pair.on_cpu):
        one.param_groups[0]["lr"] *= 0.5


CHANGES: dict[str, Callable[[Captured], None]] = {
    "max_grad_norm": norm_set,
    "load_state_dict": state_loaded,
    "add_param_group": group_added,
    "lr": edited,
}


@pytest.mark.parametrize(
    "options", [{}, {"max_grad_norm": 3.0}, {"skip_nonfinite": True, "group_norms": True}], ids=str
)
@pytest.mark.parametrize("change", CHANGES)
def test_a_graph_goes_on_after_a_change(library: Host, change: str, options: dict[str, Any]) -> None:
    pair = Captured(library, **options)
    pair.replay()
    CHANGES[change](pair)
    pair.replay()
    pair.step()
    gc.collect()
    pair.replay()
    pair.replay()
    pair.step()
    pair.check()


@pytest.mark.parametrize("seed", range(8))
def test_graphs_and_steps_in_any_order_keep_one_count(library: Host, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pair = Captured(library, lr=lambda t: 0.1 / t, max_grad_norm=[None, 3.0][seed % 2])
    moves = [*CHANGES.values(), pair.replay.__func__, pair.replay.__func__, Captured.step, Captured.step]
    for number in rng.integers(0, len(moves), 25).tolist():
        if moves[number] is edited:
            continue  # the rate is a function here
        moves[number](pair)
    pair.step()
    pair.check()


@pytest.mark.parametrize("leave", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 3.0}], ids=str)
def test_a_graph_is_safe_after_a_step_without_a_gradient(library: Host, leave: int, options: dict[str, Any]) -> None:
    pair = Captured(library, **options)
    pair.step(leave)
    gc.collect()
    pair.replay()
    assert pair.on_gpu._dispatcher.read_steps().tolist() == [3 - (k == leave) for k in range(3)]
    pair.step(leave)
    pair.replay()
    assert pair.on_gpu._dispatcher.read_steps().tolist() == [5 - 2 * (k == leave) for k in range(3)]
    # The third is alone in its cohort.
    if leave != 2 and not options:
        np.testing.assert_array_equal(pair.params[2].memory, pair.twins[2])


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 3.0}], ids=str)
def test_a_graph_is_safe_after_a_parameter_has_moved(library: Host, options: dict[str, Any]) -> None:
    pair = Captured(library, **options)
    moved = pair.params[1]
    library.engine.finish()
    old, moved.memory = moved.memory, moved.memory.copy()
    moved.__cuda_array_interface__ = {**moved.memory.__array_interface__, "version": 3}
    pair.step()
    library.engine.finish()
    before = moved.memory.copy()
    gc.collect()
    pair.on_gpu.prepare_replay(pair.stream)
    pair.graph.launch(pair.stream)
    library.engine.finish()
    # It works where it was captured.
    np.testing.assert_array_equal(moved.memory, before)
    assert (old != before).any()
    assert pair.on_gpu._dispatcher.read_steps().tolist() == [3, 3, 3]


def test_states_that_a_graph_works_on_are_kept_whatever_the_optimizer_does_with_them(library: Host) -> None:
    pair = Captured(library)
    memories = {one.address for placed in pair.on_gpu._params for one in placed.state.memories}
    for placed in pair.on_gpu._params:
        fresh = BucketState(placed.state.bucket, placed.state.engine)
        fresh.ensure(["exp_avg", "exp_avg_sq"])
        placed.place = replace(placed.place, state=fresh)
    pair.on_gpu._dispatcher.settle()
    pair.on_gpu.step(pair.kept[0], stream=pair.stream)
    gc.collect()
    assert memories <= set(library.engine.binding.host.known)
    pair.graph.launch(pair.stream)
    library.engine.finish()


def test_replays_are_counted_without_being_prepared(library: Host) -> None:
    pair = Captured(library)
    pair.on_gpu.max_grad_norm = 2.0
    pair.step()
    for _ in range(3):
        pair.graph.launch(pair.stream)
    assert [one["step"] for one in pair.on_gpu.state_dict()["state"].values()] == [5, 5, 5]
    pair.step()
    assert pair.on_gpu._dispatcher.read_steps().tolist() == [6, 6, 6]


def test_only_what_was_captured_is_kept(library: Host) -> None:
    pair = KeptPair(library, capturable=True)
    stream = library.stream()

    def memory() -> int:
        gc.collect()
        return len(library.engine.binding.host.known)

    for leave in (None, 0, None, 1):
        gradients: list[Any] = pair.up(pair.gradients())
        if leave is not None:
            gradients[leave] = None
        pair.on_gpu.step(gradients, stream=stream)
        found = memory()
        if leave is None:
            expected = found
    pair.on_gpu.step(pair.up(pair.gradients()), stream=stream)
    assert memory() <= expected + 2
    arrays = pair.up(pair.gradients())
    with library.captured(stream) as graph:
        pair.on_gpu.step(arrays, stream=stream)
    before = memory()
    pair.on_gpu.step([*arrays[:2], None], stream=stream)
    assert memory() > before
    graph.launch(stream)
    library.engine.finish()
    # What was captured lives as long as the optimizer, and no longer.
    del pair, arrays, gradients, graph
    assert memory() == 0


def test_skipped_steps_of_an_old_graph_are_counted(library: Host) -> None:
    pair = Captured(library, skip_nonfinite=True, group_norms=True)
    for _ in range(12):  # more groups than there was room for
        group_added(pair)
    pair.step()
    library.engine.finish()
    pair.arrays[1].memory[3, 4] = np.inf
    before = [param.memory.copy() for param in pair.params]
    for _ in range(3):
        pair.graph.launch(pair.stream)
    assert pair.on_gpu.steps_skipped == 3
    assert pair.on_gpu.state_dict()["steps_skipped"] == 3
    for param, was in zip(pair.params, before, strict=True):
        np.testing.assert_array_equal(param.memory, was)
    pair.on_gpu.load_state_dict({**pair.on_gpu.state_dict(), "steps_skipped": 8})
    pair.graph.launch(pair.stream)
    assert pair.on_gpu.steps_skipped == 9


def test_what_a_captured_step_was_scaled_by_is_kept(library: Host) -> None:
    pair = KeptPair(library, capturable=True)
    stream = library.stream()
    scaler: Any = LossScaler(pair.on_gpu, init_scale=4.0)
    kept = [pair.up(pair.gradients()) for _ in range(3)]
    pair.on_gpu.step(kept[0], grad_scale=scaler, stream=stream)
    with library.captured(stream) as graph:
        pair.on_gpu.step(kept[1], grad_scale=scaler, stream=stream)
    address = scaler.address
    del scaler
    pair.on_gpu.step(kept[2], stream=stream)
    pair.on_gpu.step([kept[2][0], None, None], stream=stream)
    gc.collect()
    assert library.engine.binding.host.is_known(address, 8)
    graph.launch(stream)
    library.engine.finish()


def test_an_optimizers_own_graph_is_refused_and_harmless_when_the_plan_has_changed(library: Host) -> None:
    pair = KeptPair(library, capturable=True)
    pair.on_gpu.grads = pair.up(pair.gradients())
    graph = pair.on_gpu.graph()
    graph.replay()
    pair.on_gpu.max_grad_norm = 1.0
    pair.on_gpu.step()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="make another with graph"):
            graph.replay()
    del pair
    gc.collect()
    assert graph._replay.__self__.steps_skipped == 0
    del graph
    gc.collect()
    assert not library.engine.binding.host.known


def test_a_capture_of_another_kind_of_step_is_refused_before_anything_changes(library: Host) -> None:
    pair = Captured(library)
    pair.on_gpu.max_grad_norm = 1.0
    executor = pair.on_gpu._dispatcher.executor
    with library.captured(pair.stream), pytest.raises(RuntimeError, match="call step\\(\\) once before the capture"):
        pair.on_gpu.step(pair.arrays, stream=pair.stream)
    assert pair.on_gpu._dispatcher.executor is executor


def test_prepared_replays_need_something_that_was_captured(library: Host) -> None:
    pair = KeptPair(library, capturable=True)
    with pytest.raises(RuntimeError, match="no step was captured"):
        pair.on_gpu.prepare_replay()
    with pytest.raises(RuntimeError, match="no step was captured"):
        GpuAdam([np.ones(3, np.float32)]).prepare_replay()


def test_a_released_scaling_is_the_same() -> None:
    assert Scaling().released() == Scaling()


@pytest.mark.parametrize("seed", range(12))
def test_every_step_and_every_replay_counts_once(library: Host, seed: int) -> None:
    """Several graphs, each of some parameters, replayed unprepared among steps of other parameters."""
    rng = np.random.default_rng(seed)
    scheduled = {"lr": lambda t: 0.1 / t} if seed % 3 == 0 else {}
    pair = KeptPair(library, capturable=True, max_grad_norm=[None, 3.0][seed % 2], **scheduled)
    stream = library.stream()
    counts = np.zeros(3, np.int64)
    graphs: list[tuple[Any, list[int]]] = []
    kept: list[Any] = []

    def step(active: list[int]) -> None:
        arrays: list[Any] = pair.up(pair.gradients())
        kept.append([array if k in active else None for k, array in enumerate(arrays)])
        pair.on_gpu.step(kept[-1], stream=stream)

    for _ in range(40):
        move = rng.choice(["step", "capture", "replay", "replay", "clip", "look", "prepare"])
        active = sorted(rng.choice(3, int(rng.integers(1, 4)), replace=False).tolist())
        if move == "step" or (move == "capture" and not graphs):
            step(active)
            counts[active] += 1
        if move == "capture":
            step(active)  # which compiles it
            counts[active] += 1
            with library.captured(stream) as graph:
                step(active)
            graphs.append((graph, active))
        elif move == "replay" and graphs:
            graph, active = graphs[rng.integers(len(graphs))]
            graph.launch(stream)
            counts[active] += 1
        elif move == "clip":
            pair.on_gpu.max_grad_norm = None if pair.on_gpu.max_grad_norm else 2.0
        elif move == "look":
            found = pair.on_gpu.state_dict()["state"]
            assert [found[k]["step"] if k in found else 0 for k in range(3)] == counts.tolist()
        elif move == "prepare" and graphs:
            pair.on_gpu.prepare_replay(stream)
    assert pair.on_gpu._dispatcher.read_steps().tolist() == counts.tolist()
    library.engine.finish()
    assert all(np.isfinite(param.memory).all() for param in pair.params)


def test_a_capture_that_was_refused_is_refused_again_and_the_next_step_goes_on(library: Host) -> None:
    pair = KeptPair(library, capturable=True)
    stream = library.stream()
    gradients = pair.up(pair.gradients())
    pair.on_gpu.step(gradients, stream=stream)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="gradients of a captured step differ"), library.captured(stream):
            pair.on_gpu.step([*gradients[:-1], None], stream=stream)
    pair.on_gpu.step([*gradients[:-1], None], stream=stream)
    with library.captured(stream):
        pair.on_gpu.step([*gradients[:-1], None], stream=stream)


def test_a_step_is_captured_after_a_graph_was_made(library: Host) -> None:
    pair = KeptPair(library, capturable=True)
    stream = library.stream()
    pair.on_gpu.grads = pair.up(pair.gradients())
    pair.on_gpu.step(stream=stream)
    pair.on_gpu.param_groups[0]["lr"] = 0.5
    pair.on_gpu.graph()
    with library.captured(stream):
        pair.on_gpu.step(stream=stream)
    library.engine.finish()
